//! Pixels and samples cannot be read outside the crate.
use girasol::{
    source::{Block, Frame},
    timeline::Snippet,
};

fn main() {
    let frame = Frame::new();
    let _ = frame.rgb;
    let _ = frame.rgb();
    let block = Block::new();
    let _ = block.samples;
    let _ = block.samples();
    let snippet = Snippet::new();
    let _ = snippet.patch;
    let _ = snippet.patch();
    let _ = snippet.frame(0);
    girasol::frontend::video::frame_tensor(&frame, None, &mut []);
}
