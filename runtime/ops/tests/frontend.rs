//! What makes a network's input: pictures and pixels equal their definition on every kernel; filters and spectrograms are near
//! theirs, and the same bits on every kernel.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::cast_precision_loss, reason = "small numbers")]

use girasol_ops::{
    Kernel,
    filter::{self, Filter, GROUP},
    picture::{Colours, Component, Picture, PlaneSpec},
    pixels::{CHANNELS, Pixels},
    semantics,
    spectrogram::{BINS, Band, Spectrogram, TRANSFORM},
};
use proptest::{collection::vec, prelude::*};

/// A plane: width and height of its components, how they lie in a row, and how much rows are padded.
#[derive(Clone, Debug)]
struct Plane {
    size: [usize; 2],
    padding: usize,
    components: Vec<Component>,
    data: Vec<u8>,
}

impl Plane {
    fn stride(&self) -> usize {
        self.spec().row_bytes() + self.padding
    }

    fn spec(&self) -> PlaneSpec<'_> {
        PlaneSpec { height: self.size[1], components: &self.components }
    }

    fn samples(&self, component: &Component) -> Vec<u8> {
        let rows = (0..self.size[1]).map(|y| y * self.stride() + component.offset);
        rows.flat_map(|at| (0..component.width).map(move |x| self.data[at + x * component.step])).collect()
    }
}

/// A component's index, offset and step, and of how many of the picture's columns it has one.
type Part = (usize, usize, usize, usize);

/// As cameras deliver them.
const FORMATS: [&[&[Part]]; 5] = [
    &[&[(0, 0, 2, 1), (1, 1, 4, 2), (2, 3, 4, 2)]],
    &[&[(0, 0, 1, 1)], &[(1, 0, 2, 2), (2, 1, 2, 2)]],
    &[&[(0, 0, 1, 1)], &[(1, 0, 1, 2)], &[(2, 0, 1, 2)]],
    &[&[(0, 0, 3, 1), (1, 1, 3, 1), (2, 2, 3, 1)]],
    &[&[(0, 0, 1, 1)]],
];

/// Miri is a thousand times slower than the machine, and emulated CPUs many times.
fn cases(many: u32) -> ProptestConfig {
    let cases = if cfg!(miri) {
        2
    } else if cfg!(target_arch = "x86_64") {
        many
    } else {
        many / 4
    };
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

fn planes() -> impl Strategy<Value = Vec<Plane>> {
    // Beside any size: those with few and with many columns and rows for a pixel of the result.
    let width = if cfg!(miri) {
        (1..70usize).boxed()
    } else {
        prop_oneof![1..420usize, Just(640), 1_500..1_600usize].boxed()
    };
    let height = if cfg!(miri) {
        (1..20usize).boxed()
    } else {
        prop_oneof![1..160usize, Just(240), 260..400usize].boxed()
    };
    (0..FORMATS.len(), width, height, 0..7usize, any::<u32>()).prop_map(
        |(format, width, height, padding, seed)| {
            let mut state = seed;
            let mut noise = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // White and black make the extremes of sums and colours.
                [state.to_be_bytes()[0], state.to_be_bytes()[0], 255, 0][(state >> 8) as usize % 4]
            };
            let plane = |(index, parts): (usize, &&[Part])| {
                let high = if index == 0 { height } else { height.div_ceil(2) };
                let component = |&(index, offset, step, part)| Component {
                    index,
                    offset,
                    step,
                    width: width.div_ceil(part),
                };
                let mut plane = Plane {
                    size: [width, high],
                    padding,
                    components: parts.iter().map(component).collect(),
                    data: Vec::new(),
                };
                // The last row is not padded.
                let len = plane.stride() * (high - 1) + plane.spec().row_bytes();
                plane.data = (0..len).map(|_| noise()).collect();
                plane
            };
            FORMATS[format].iter().enumerate().map(plane).collect()
        },
    )
}

fn shrunk(planes: &[Plane], [width, height]: [usize; 2], colours: Colours) -> Vec<u8> {
    let mut components = vec![vec![0; width * height]; 3];
    for plane in planes {
        for component in &plane.components {
            let (samples, size) = (plane.samples(component), [component.width, plane.size[1]]);
            components[component.index] = semantics::area_average(&samples, size, [width, height]);
        }
    }
    let pixel = |i: usize| semantics::rgb(colours, [components[0][i], components[1][i], components[2][i]]);
    (0..width * height).flat_map(pixel).collect()
}

fn run_picture(kernel: Kernel, planes: &[Plane], [width, height]: [usize; 2], colours: Colours) -> Vec<u8> {
    let specs: Vec<_> = planes.iter().map(Plane::spec).collect();
    let mut picture = Picture::new(kernel, &specs, width, height).unwrap();
    let data: Vec<_> = planes.iter().map(|plane| (&plane.data[..], plane.stride())).collect();
    let mut rgb = vec![7; width * height * 3];
    picture.run(&data, colours, &mut rgb);
    rgb
}

fn colours() -> impl Strategy<Value = Colours> {
    prop_oneof![Just(Colours::Limited), Just(Colours::Full), Just(Colours::Grey), Just(Colours::Rgb)]
}

proptest! {
    #![proptest_config(cases(96))]
    #[test]
    fn pictures_equal_their_definition(
        planes in planes(), columns in 1..5usize, rows in 1..4usize, colours in colours(),
    ) {
        let size = [8 * columns, 8 * rows];
        let expected = shrunk(&planes, size, colours);
        for kernel in Kernel::available() {
            prop_assert!(run_picture(kernel, &planes, size, colours) == expected, "{}", kernel);
        }
    }
}

/// At every border between ways to add up and to divide.
#[test]
fn white_stays_white_and_black_black() {
    let sizes = [
        [1, 1],
        [9, 257],
        [8, 8 * 257],
        [8, 8 * 257 + 8],
        [2898 * 8, 8],
        [2899 * 8, 8],
        [64, 5000],
        [40_000, 3],
    ];
    // Miri would work on the large ones, of a million pixels, for the better part of an hour.
    for &size in if cfg!(miri) { &sizes[..2] } else { &sizes[..] } {
        for value in [0, 255] {
            let component = Component { index: 0, offset: 0, step: 1, width: size[0] };
            let data = vec![value; size[0] * size[1]];
            let plane = Plane { size, padding: 0, components: vec![component], data };
            for kernel in Kernel::available() {
                let rgb = run_picture(kernel, std::slice::from_ref(&plane), [16, 8], Colours::Grey);
                assert!(rgb.iter().all(|&v| v == value), "{kernel}: {size:?}");
            }
        }
    }
}

/// All lumas and chromas, three steps apart, as an image of the result's own size.
#[test]
fn colours_equal_their_definition() {
    let (columns, rows, step) = if cfg!(miri) { (32, 16, 51) } else { (128, 96, 3) };
    let steps: Vec<u8> = (0..=255).step_by(step).collect();
    let all: Vec<[u8; 3]> = steps
        .iter()
        .flat_map(|&y| steps.iter().flat_map(move |&u| (0..=255).step_by(17).map(move |v| [y, u, v])))
        .collect();
    let planes = [0, 1, 2].map(|index| Component { index, offset: 0, step: 1, width: columns });
    let specs = planes.each_ref().map(|c| PlaneSpec { height: rows, components: std::slice::from_ref(c) });
    for part in all.chunks_exact(columns * rows) {
        let data = [0, 1, 2].map(|index| part.iter().map(|pixel| pixel[index]).collect::<Vec<_>>());
        for colours in [Colours::Limited, Colours::Full, Colours::Grey, Colours::Rgb] {
            let expected: Vec<u8> = part.iter().flat_map(|&pixel| semantics::rgb(colours, pixel)).collect();
            for kernel in Kernel::available() {
                let mut picture = Picture::new(kernel, &specs, columns, rows).unwrap();
                let mut rgb = vec![0; columns * rows * 3];
                picture.run(&data.each_ref().map(|data| (&data[..], columns)), colours, &mut rgb);
                assert!(rgb == expected, "{kernel}: {colours:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let new = |component: Component, height, size: [usize; 2]| {
        let spec = PlaneSpec { height, components: &[component] };
        Picture::new(Kernel::Scalar, &[spec], size[0], size[1]).is_err()
    };
    let good = Component { index: 0, offset: 0, step: 1, width: 10 };
    assert!(!new(good, 10, [8, 8]));
    assert!(new(good, 0, [8, 8]) && new(Component { width: 0, ..good }, 10, [8, 8]));
    assert!(new(good, 10, [0, 8]) && new(good, 10, [12, 8]) && new(good, 10, [8, 256]));
    assert!(
        new(Component { index: 3, ..good }, 10, [8, 8]) && new(Component { step: 0, ..good }, 10, [8, 8])
    );
    assert!(
        new(Component { width: 4097, ..good }, 4096, [8, 8])
            && new(Component { width: usize::MAX, ..good }, 1, [8, 8])
    );
    let bands = |first| vec![Band { first, weights: vec![1.0; 2] }];
    let spectrogram = |window: usize, hop, first, offset| {
        Spectrogram::new(Kernel::Scalar, &vec![1.0; window], hop, bands(first), offset).is_err()
    };
    assert!(!spectrogram(TRANSFORM, 1, BINS - 2, 0.1));
    assert!(spectrogram(0, 1, 0, 0.1) && spectrogram(6, 1, 0, 0.1) && spectrogram(TRANSFORM + 4, 1, 0, 0.1));
    assert!(spectrogram(4, 0, 0, 0.1) && spectrogram(4, 1, BINS - 1, 0.1));
    assert!(spectrogram(4, 1, 0, 0.0) && spectrogram(4, 1, 0, f32::NAN) && spectrogram(4, 1, 0, -1.0));
}

proptest! {
    #[test]
    fn pixels_equal_their_definition(
        (rgb, before) in (0..70usize).prop_flat_map(|len| {
            let byte = prop_oneof![3 => any::<u8>(), 1 => Just(255u8), 1 => Just(0u8)];
            (vec(byte.clone(), 3 * len), proptest::option::of(vec(byte, 3 * len)))
        }),
    ) {
        let pixels = rgb.as_chunks::<3>().0;
        let then = before.as_deref().unwrap_or(&rgb).as_chunks::<3>().0;
        let expected: Vec<i8> = pixels.iter().zip(then).flat_map(|(&a, &b)| semantics::pixel(a, b)).collect();
        for kernel in Kernel::available() {
            let mut tensor = vec![9; pixels.len() * CHANNELS];
            Pixels::new(kernel).unwrap().run(&rgb, before.as_deref(), &mut tensor);
            prop_assert_eq!(&tensor, &expected, "{}", kernel);
        }
    }

    #[test]
    fn filters_are_near_their_definition_and_the_same_on_every_kernel(
        (filters, windows) in (1..9usize).prop_flat_map(|steps| {
            let values = || vec(-1.0..1.0f32, steps * filter::STEP);
            (vec(values(), GROUP), vec(values(), GROUP))
        }),
    ) {
        let group = |rows: &[Vec<f32>], first: usize| -> [Vec<f32>; GROUP] {
            std::array::from_fn(|i| rows[(first + i) % GROUP].clone())
        };
        let exact = |filter: &[f32], window: &[f32]| -> f64 {
            filter.iter().zip(window).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let reference = Filter::new(Kernel::Scalar).unwrap();
        let sums = |op: Filter, first: usize| {
            let (filters, windows) = (group(&filters, first), group(&windows, first));
            let (filters, windows) = (filters.each_ref().map(|f| &f[..]), windows.each_ref().map(|w| &w[..]));
            [op.run_each(filters, windows), op.run(filters[0], windows)]
        };
        let [each, one] = sums(reference, 0);
        for i in 0..GROUP {
            prop_assert!((f64::from(each[i]) - exact(&filters[i], &windows[i])).abs() < 1e-5);
            prop_assert!((f64::from(one[i]) - exact(&filters[0], &windows[i])).abs() < 1e-5);
        }
        for kernel in Kernel::available() {
            let op = Filter::new(kernel).unwrap();
            prop_assert_eq!(sums(op, 0), [each, one], "{}", kernel);
            // Whatever place in the group it has.
            let [turned, _] = sums(op, 1);
            prop_assert_eq!(turned, [each[1], each[2], each[3], each[0]], "{}", kernel);
        }
    }
}

#[derive(Clone, Debug)]
struct SpectrogramCase {
    window: Vec<f32>,
    hop: usize,
    bands: Vec<Band>,
    samples: Vec<i16>,
    frames: usize,
}

fn spectrogram_cases() -> impl Strategy<Value = SpectrogramCase> {
    let band = (0..BINS, 0..24usize).prop_flat_map(|(first, len)| {
        vec(0.0..1.0f32, len.min(BINS - first)).prop_map(move |weights| Band { first, weights })
    });
    let sample = prop_oneof![4 => any::<i16>(), 1 => Just(i16::MIN), 1 => Just(0i16)];
    (1..=TRANSFORM / 4, 1..200usize, vec(band, 1..6), 1..11usize).prop_flat_map(
        move |(quarter, hop, bands, frames)| {
            let len = (frames - 1) * hop + 4 * quarter;
            (vec(0.0..1.0f32, 4 * quarter), vec(sample.clone(), len)).prop_map(move |(window, samples)| {
                SpectrogramCase { window, hop, bands: bands.clone(), samples, frames }
            })
        },
    )
}

const OFFSET: f32 = 0.001;

/// Each band's sum of magnitudes, by the definition in f64, and by how much f32 may miss it.
fn exact_bands(case: &SpectrogramCase, frame: usize) -> Vec<(f64, f64)> {
    let samples = &case.samples[frame * case.hop..];
    let values: Vec<f64> =
        samples.iter().zip(&case.window).map(|(&s, &w)| f64::from(s) / 32_768.0 * f64::from(w)).collect();
    let loudness: f64 = values.iter().map(|x| x.abs()).sum();
    let magnitude = |bin: usize| {
        let angle = |n: usize| 2.0 * std::f64::consts::PI * (n * bin % TRANSFORM) as f64 / TRANSFORM as f64;
        let part = |of: fn(f64) -> f64| values.iter().enumerate().map(|(n, x)| x * of(angle(n))).sum::<f64>();
        part(f64::cos).hypot(part(f64::sin))
    };
    let band = |band: &Band| {
        let bins = band.weights.iter().zip(band.first..);
        let sum: f64 = bins.map(|(&w, bin)| f64::from(w) * magnitude(bin)).sum();
        let weights: f64 = band.weights.iter().map(|&w| f64::from(w)).sum();
        (sum, 1e-6 * loudness * weights + 2e-6 * (sum + f64::from(OFFSET)))
    };
    case.bands.iter().map(band).collect()
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn spectrograms_are_near_their_definition_and_the_same_on_every_kernel(case in spectrogram_cases()) {
        let run = |kernel| {
            let mut op = Spectrogram::new(kernel, &case.window, case.hop, case.bands.clone(), OFFSET).unwrap();
            let mut output = vec![9.0; case.frames * case.bands.len()];
            op.run(&case.samples, &mut output);
            // The second time over what the first left behind.
            let mut again = output.clone();
            op.run(&case.samples, &mut again);
            assert_eq!(output, again);
            output
        };
        let reference = run(Kernel::Scalar);
        for (frame, row) in reference.chunks_exact(case.bands.len()).enumerate() {
            for (&value, (exact, tolerance)) in row.iter().zip(exact_bands(&case, frame)) {
                let found = f64::from(value).exp() - f64::from(OFFSET);
                prop_assert!((found - exact).abs() <= tolerance, "{found} for {exact}, {tolerance}");
            }
        }
        for kernel in Kernel::available() {
            prop_assert_eq!(&run(kernel), &reference, "{}", kernel);
        }
    }
}

/// A tone of full scale in the middle of a bin: no leak into other bins, beyond what rounding leaves.
#[test]
fn a_tone_is_where_it_belongs() {
    let step = 2.0 * std::f64::consts::PI * 32.0 / TRANSFORM as f64;
    #[allow(clippy::cast_possible_truncation, reason = "16 bits")]
    let samples: Vec<i16> =
        (0..TRANSFORM).map(|n| ((step * n as f64).sin() * 32_767.0).round() as i16).collect();
    let bands: Vec<Band> = (0..BINS).map(|first| Band { first, weights: vec![1.0] }).collect();
    for kernel in Kernel::available() {
        let mut op = Spectrogram::new(kernel, &[1.0; TRANSFORM], 1, bands.clone(), OFFSET).unwrap();
        let mut output = vec![0.0; BINS];
        op.run(&samples, &mut output);
        for (bin, value) in output.iter().enumerate() {
            let expected = if bin == 32 { 256.0 } else { 0.0 };
            assert!((value.exp() - OFFSET - expected).abs() < 0.01, "{kernel}: bin {bin}: {}", value.exp());
        }
    }
}

/// Under emulation of a CPU: the kernel that it must choose.
#[test]
fn front_ends_run_on_the_kernel_of_the_cpu() {
    let best = Kernel::best();
    if let Ok(expected) = std::env::var("GIRASOL_EXPECT_KERNEL") {
        assert_eq!(best.name(), expected);
    }
    let component = Component { index: 0, offset: 0, step: 1, width: 8 };
    let plane = PlaneSpec { height: 8, components: &[component] };
    let kernels = [
        Picture::new(best, &[plane], 8, 8).unwrap().kernel(),
        Pixels::new(best).unwrap().kernel(),
        Filter::new(best).unwrap().kernel(),
        Spectrogram::new(best, &[1.0; 4], 1, Vec::new(), OFFSET).unwrap().kernel(),
    ];
    assert_eq!(kernels, [best; 4]);
    for kernel in Kernel::ALL.into_iter().filter(|kernel| !kernel.is_available()) {
        assert!(Picture::new(kernel, &[plane], 8, 8).is_err() && Pixels::new(kernel).is_err());
        assert!(Filter::new(kernel).is_err());
        assert!(Spectrogram::new(kernel, &[1.0; 4], 1, Vec::new(), OFFSET).is_err());
    }
}
