//! The privacy types keep their promise: what would let media out does not compile.
//!
//! After a change of compiler: `TRYBUILD=overwrite cargo test -p girasol --test compile_fail`, then read the diff.

#[test]
fn media_cannot_be_cloned_serialised_shown_or_read_from_outside() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
