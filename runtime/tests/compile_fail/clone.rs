//! Media cannot be copied out.
use girasol::{
    source::{Block, Frame},
    timeline::Snippet,
};

fn clone<T: Clone>() {}

fn main() {
    clone::<Frame>();
    clone::<Block>();
    clone::<Snippet>();
}
