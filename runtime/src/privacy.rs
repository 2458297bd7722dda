//! The privacy types keep their promise: what would let media out of the process does not compile.
//!
//! [`Frame`](crate::source::Frame), [`Block`](crate::source::Block) and [`Snippet`](crate::timeline::Snippet) hold
//! pixels and samples. The examples below are tests: each must be refused by the compiler, for the reason given by the
//! error code.
//!
//! They cannot be copied:
//! ```compile_fail,E0277
//! fn clone<T: Clone>() {}
//! clone::<girasol::source::Frame>();
//! ```
//! ```compile_fail,E0277
//! fn clone<T: Clone>() {}
//! clone::<girasol::source::Block>();
//! ```
//! ```compile_fail,E0277
//! fn clone<T: Clone>() {}
//! clone::<girasol::timeline::Snippet>();
//! ```
//! nor serialised:
//! ```compile_fail,E0277
//! fn serialise<T: serde::Serialize>() {}
//! serialise::<girasol::source::Frame>();
//! ```
//! ```compile_fail,E0277
//! fn serialise<T: serde::Serialize>() {}
//! serialise::<girasol::source::Block>();
//! ```
//! ```compile_fail,E0277
//! fn serialise<T: serde::Serialize>() {}
//! serialise::<girasol::timeline::Snippet>();
//! ```
//! nor shown:
//! ```compile_fail,E0277
//! println!("{}", girasol::source::Frame::new());
//! ```
//! ```compile_fail,E0277
//! println!("{}", girasol::source::Block::new());
//! ```
//! ```compile_fail,E0277
//! println!("{}", girasol::timeline::Snippet::new());
//! ```
//! nor read from outside this crate, neither their fields
//! ```compile_fail,E0616
//! let _ = girasol::source::Frame::new().rgb;
//! ```
//! ```compile_fail,E0616
//! let _ = girasol::source::Block::new().samples;
//! ```
//! ```compile_fail,E0616
//! let _ = girasol::timeline::Snippet::new().patch;
//! ```
//! nor through their methods:
//! ```compile_fail,E0624
//! let _ = girasol::source::Frame::new().rgb();
//! ```
//! ```compile_fail,E0624
//! let _ = girasol::source::Block::new().samples();
//! ```
//! ```compile_fail,E0624
//! let _ = girasol::timeline::Snippet::new().patch();
//! ```
//! ```compile_fail,E0624
//! let _ = girasol::timeline::Snippet::new().frame(0);
//! ```
//! nor by the tensors made of them:
//! ```compile_fail,E0603
//! girasol::frontend::video::frame_tensor(&girasol::source::Frame::new(), None, &mut []);
//! ```
//! This compiles, so the paths above are right:
//! ```
//! let _ = (girasol::source::Frame::new(), girasol::source::Block::new(), girasol::timeline::Snippet::new());
//! ```
