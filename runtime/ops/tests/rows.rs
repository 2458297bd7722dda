//! Sums of rows of bytes: every kernel gives what the definition says, in narrow and in wide sums.

use girasol_ops::{
    Kernel,
    rows::{NARROW, RowSpan, RowSums},
};
use proptest::{collection::vec, prelude::*};

/// Any, and often such small ones as pictures have.
fn weights() -> impl Strategy<Value = [u8; 3]> {
    prop_oneof![any::<[u8; 3]>(), [1..7u8, 1..7u8, 1..7u8]]
}

proptest! {
    #[test]
    fn rows_are_added_up_as_defined(
        (width, stride, span, data) in (1..200usize, 0..9usize, 1..40usize, weights()).prop_flat_map(
            |(width, padding, len, [first, inner, last])| {
                let (stride, span) = (width + padding, RowSpan { len, first, inner, last });
                let bytes = prop_oneof![3 => any::<u8>(), 1 => Just(255u8)];
                (Just(width), Just(stride), Just(span), vec(bytes, (len - 1) * stride + width))
            }
        ),
    ) {
        let expected: Vec<u32> = (0..width)
            .map(|x| (0..span.len).map(|y| u32::from(span.weight(y)) * u32::from(data[y * stride + x])).sum())
            .collect();
        for kernel in Kernel::available() {
            let mut sums = vec![9; width];
            RowSums::new(kernel).unwrap().run(&data, stride, span, &mut sums);
            prop_assert_eq!(&sums, &expected, "{}", kernel);
            let total: usize = (0..span.len).map(|y| usize::from(span.weight(y))).sum();
            if total <= NARROW {
                let mut sums = vec![9; width];
                RowSums::new(kernel).unwrap().run_narrow(&data, stride, span, &mut sums);
                let sums: Vec<u32> = sums.into_iter().map(u32::from).collect();
                prop_assert_eq!(&sums, &expected, "{}, narrow", kernel);
            }
        }
    }
}

/// The largest sums that still are narrow, and the first that are not.
#[test]
fn white_does_not_overflow() {
    for (len, inner, last) in [(1u32, 0, 0), (2, 0, 2), (2, 0, 3), (258, 1, 1), (259, 1, 1)] {
        let span = RowSpan { len: len as usize, first: 255, inner, last };
        let total = if len == 1 { 255 } else { 255 + (len - 2) * u32::from(inner) + u32::from(last) };
        for kernel in Kernel::available() {
            let mut sums = [0; 130];
            RowSums::new(kernel).unwrap().run(&vec![255; span.len * 130], 130, span, &mut sums);
            assert!(sums.iter().all(|&sum| sum == 255 * total), "{kernel}: {span:?}");
            if total as usize <= NARROW {
                let mut sums = [0; 130];
                RowSums::new(kernel).unwrap().run_narrow(&vec![255; span.len * 130], 130, span, &mut sums);
                assert!(sums.iter().all(|&sum| u32::from(sum) == 255 * total), "{kernel}: {span:?}");
            }
        }
    }
}
