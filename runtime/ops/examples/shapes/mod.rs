//! The operators of the shipped encoders (`models/bundle`), one picture and one patch of sound.

/// (pixels, inputs, outputs, times) of the video encoder's 1x1 convolutions.
pub(crate) const VIDEO_LINEAR: [(usize, usize, usize, usize); 14] = [
    (3072, 32, 16, 1),
    (3072, 16, 96, 1),
    (768, 96, 24, 1),
    (768, 24, 144, 2),
    (768, 144, 24, 1),
    (192, 144, 40, 1),
    (192, 40, 240, 2),
    (192, 240, 40, 1),
    (48, 240, 80, 1),
    (48, 80, 480, 1),
    (48, 480, 112, 1),
    (48, 112, 672, 2),
    (48, 672, 112, 1),
    (12, 672, 128, 1),
];

/// (height, width, channels, size, stride) of the video encoder's depthwise convolutions, one each.
pub(crate) const VIDEO_DEPTHWISE: [(usize, usize, usize, usize, usize); 9] = [
    (48, 64, 32, 3, 1),
    (48, 64, 96, 3, 2),
    (24, 32, 144, 3, 1),
    (24, 32, 144, 5, 2),
    (12, 16, 240, 5, 1),
    (12, 16, 240, 3, 2),
    (6, 8, 480, 5, 1),
    (6, 8, 672, 5, 1),
    (6, 8, 672, 5, 2),
];

/// As [`VIDEO_LINEAR`], for the audio encoder.
pub(crate) const AUDIO_LINEAR: [(usize, usize, usize, usize); 9] = [
    (1536, 32, 64, 1),
    (384, 64, 128, 1),
    (384, 128, 128, 1),
    (96, 128, 256, 1),
    (96, 256, 256, 1),
    (24, 256, 512, 1),
    (24, 512, 512, 5),
    (6, 512, 1024, 1),
    (6, 1024, 128, 1),
];

/// (height, width, channels, stride, times) of the audio encoder's depthwise 3x3 convolutions.
pub(crate) const AUDIO_DEPTHWISE: [(usize, usize, usize, usize, usize); 8] = [
    (48, 32, 32, 1, 1),
    (48, 32, 64, 2, 1),
    (24, 16, 128, 1, 1),
    (24, 16, 128, 2, 1),
    (12, 8, 256, 1, 1),
    (12, 8, 256, 2, 1),
    (6, 4, 512, 1, 5),
    (6, 4, 512, 2, 1),
];

/// (pixels, channels) of the video encoder's residual additions.
pub(crate) const VIDEO_ADD: [(usize, usize); 3] = [(768, 24), (192, 40), (48, 112)];
