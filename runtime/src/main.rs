//! The `girasol` program.

fn main() {}
