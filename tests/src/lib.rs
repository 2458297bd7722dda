//! Helpers shared by the whole-program tests: a mosquitto of our own, generated clips, the program under test.
