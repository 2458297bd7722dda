//! Media cannot be shown.
use girasol::{
    source::{Block, Frame},
    timeline::Snippet,
};

fn main() {
    println!("{}", Frame::new());
    println!("{}", Block::new());
    println!("{}", Snippet::new());
}
