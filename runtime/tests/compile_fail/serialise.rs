//! Media cannot be serialised.
use girasol::{
    source::{Block, Frame},
    timeline::Snippet,
};

fn main() {
    let _ = serde_json::to_string(&Frame::new());
    let _ = serde_json::to_string(&Block::new());
    let _ = serde_json::to_string(&Snippet::new());
}
