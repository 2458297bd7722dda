// Plays a clip to the camera and the sound card of the board in a VM, so that both are there at the same time.
//
//     player CAMERA_OUTPUT PCM FOLDER
//
// FOLDER has picture.yuyv (320x240, 15 frames a second) and sound.s16 (16 kHz, mono). The camera sees the first frame and
// the microphone hears the first second, over and over. When the file FOLDER/go is there, it is removed and the clip is
// played once; after it, the last frame stays, with that first second again. Told on standard output, one line each,
// times in nanoseconds of CLOCK_MONOTONIC:
//
//     ready                     both devices play
//     begin T                   the clip's second 0 is heard
//     cut N T                   frame N, much brighter or darker than the one before, has been shown (a V4L2 time stamp)
//     underrun                  a pause was heard
//     end
//
// An unplugged device is waited for and played to again.
#include <alsa/asoundlib.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 320, HEIGHT = 240, FPS = 15, SHOWN_FPS = 39, RATE = 16000, CHUNK = RATE / 100, BUFFERS = 3, SCALE = 2 };
enum { FRAME = WIDTH * HEIGHT * 2, OUT_STRIDE = WIDTH * SCALE * 2, OUT_HEIGHT = HEIGHT * SCALE };
static const int64_t SECOND = 1000000000;

static const char *camera, *card;
static char go[4096];
static const uint8_t *pictures;
static const int16_t *sound;
static size_t frames, samples;
static _Atomic int64_t begin = INT64_MAX; // the clip's second 0 on CLOCK_MONOTONIC

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static const void *map(const char *folder, const char *name, size_t unit, size_t *count) {
    char path[4096];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &info) < 0 || info.st_size < (off_t)unit) {
        fprintf(stderr, "player: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    // A copy: the folder may be on the host, and reading from there takes time.
    uint8_t *data = malloc(info.st_size);
    for (off_t got = 0; got < info.st_size;) {
        ssize_t n = read(file, data + got, info.st_size - got);
        if (n <= 0) exit(1);
        got += n;
    }
    *count = info.st_size / unit;
    return data;
}

static size_t frame_at(int64_t time) {
    int64_t start = begin;
    if (time < start) return 0;
    size_t n = (time - start) * FPS / SECOND;
    return n < frames ? n : frames - 1;
}

static int light(size_t n) {
    const uint8_t *p = pictures + n * FRAME;
    long sum = 0;
    for (size_t i = 0; i < FRAME; i += 2 * 16) sum += p[i];
    return sum / (FRAME / 32);
}

static void draw(uint8_t *out, size_t n) {
    const uint32_t *in = (const uint32_t *)(pictures + n * FRAME);
    for (int y = 0; y < HEIGHT; y++, in += WIDTH / 2) {
        uint32_t *line = (uint32_t *)(out + y * SCALE * OUT_STRIDE);
        for (int x = 0; x < WIDTH / 2; x++) {
            uint32_t v = in[x], chroma = v & 0xff00ff00, y0 = v & 0xff, y1 = v >> 16 & 0xff;
            line[2 * x] = chroma | y0 | y0 << 16;
            line[2 * x + 1] = chroma | y1 | y1 << 16;
        }
        memcpy(line + WIDTH, line, OUT_STRIDE);
    }
}

// Until the camera is gone.
static void show(int file) {
    uint8_t *memory[BUFFERS] = {0};
    size_t length[BUFFERS] = {0}, held[BUFFERS] = {0}, last = 0;
    struct v4l2_format format = {.type = V4L2_BUF_TYPE_VIDEO_OUTPUT};
    if (ioctl(file, VIDIOC_G_FMT, &format) < 0) return;
    // Set already (guest.sh): setting it here would tell the other end that the signal has changed.
    struct v4l2_pix_format *pix = &format.fmt.pix;
    if (pix->pixelformat != V4L2_PIX_FMT_YUYV || pix->bytesperline != OUT_STRIDE || pix->height != OUT_HEIGHT) return;
    struct v4l2_requestbuffers request = {
        .count = BUFFERS, .type = V4L2_BUF_TYPE_VIDEO_OUTPUT, .memory = V4L2_MEMORY_MMAP};
    if (ioctl(file, VIDIOC_REQBUFS, &request) < 0) return;
    int64_t period = SECOND / SHOWN_FPS;
    for (unsigned i = 0; i < BUFFERS; i++) {
        struct v4l2_buffer buffer = {.index = i, .type = request.type, .memory = request.memory};
        if (ioctl(file, VIDIOC_QUERYBUF, &buffer) < 0) goto out;
        length[i] = buffer.length;
        memory[i] = mmap(NULL, buffer.length, PROT_READ | PROT_WRITE, MAP_SHARED, file, buffer.m.offset);
        if (memory[i] == MAP_FAILED) { memory[i] = NULL; goto out; }
        draw(memory[i], 0);
        buffer.bytesused = OUT_STRIDE * OUT_HEIGHT;
        buffer.field = V4L2_FIELD_NONE;
        if (ioctl(file, VIDIOC_QBUF, &buffer) < 0) goto out;
    }
    int type = request.type;
    if (ioctl(file, VIDIOC_STREAMON, &type) < 0) goto out;
    for (;;) {
        struct pollfd poll_it = {.fd = file, .events = POLLOUT};
        int ready = poll(&poll_it, 1, 500);
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0 || poll_it.revents & (POLLERR | POLLHUP | POLLNVAL)) goto out;
        struct v4l2_buffer buffer = {.type = request.type, .memory = request.memory};
        if (ioctl(file, VIDIOC_DQBUF, &buffer) < 0) goto out;
        size_t n = held[buffer.index];
        if (n != last && abs(light(n) - light(last)) > 48)
            printf("cut %zu %lld\n", n, buffer.timestamp.tv_sec * (long long)SECOND + buffer.timestamp.tv_usec * 1000LL);
        last = n;
        // What is drawn now is shown when the others have been.
        size_t next = frame_at(now() + (BUFFERS - 1) * period);
        if (next != n) draw(memory[buffer.index], next);
        held[buffer.index] = next;
        buffer.bytesused = OUT_STRIDE * OUT_HEIGHT;
        buffer.field = V4L2_FIELD_NONE;
        if (ioctl(file, VIDIOC_QBUF, &buffer) < 0) goto out;
    }
out:
    for (unsigned i = 0; i < BUFFERS; i++)
        if (memory[i]) munmap(memory[i], length[i]);
}

_Noreturn static void *show_for_ever(void *unused) {
    (void)unused;
    for (;; usleep(200000)) {
        int file = open(camera, O_RDWR | O_NONBLOCK);
        if (file < 0) continue;
        show(file);
        close(file);
    }
}

static void play(snd_pcm_t *pcm) {
    static int16_t chunk[CHUNK];
    size_t at = 0, noise = samples < RATE ? samples : RATE;
    int playing = 0;
    for (;;) {
        snd_pcm_sframes_t delay = 0;
        if (!playing && snd_pcm_delay(pcm, &delay) == 0 && unlink(go) == 0) {
            // What is written now is heard when what waits has been.
            begin = now() + delay * SECOND / RATE;
            printf("begin %lld\n", (long long)begin);
            at = 0, playing = 1;
        }
        for (int i = 0; i < CHUNK; i++, at++) {
            if (playing && at == samples) {
                printf("end\n");
                playing = 0, at = 0;
            }
            chunk[i] = sound[playing ? at : at % noise];
        }
        snd_pcm_sframes_t sent = snd_pcm_writei(pcm, chunk, CHUNK);
        if (sent == -EPIPE) {
            printf("underrun\n");
            if (snd_pcm_prepare(pcm) < 0) return;
        } else if (sent < 0) {
            return;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 64;
    setvbuf(stdout, NULL, _IOLBF, 0);
    // Ahead of everything else on the board: this is the world, and the world is never late.
    setpriority(PRIO_PROCESS, 0, -20);
    camera = argv[1], card = argv[2];
    snprintf(go, sizeof go, "%s/go", argv[3]);
    pictures = map(argv[3], "picture.yuyv", FRAME, &frames);
    sound = map(argv[3], "sound.s16", sizeof *sound, &samples);
    pthread_t thread;
    if (pthread_create(&thread, NULL, show_for_ever, NULL) != 0) return 1;
    for (int told = 0;; usleep(200000)) {
        snd_pcm_t *pcm;
        if (snd_pcm_open(&pcm, card, SND_PCM_STREAM_PLAYBACK, 0) < 0) continue;
        // Half a second, written ahead as far as it goes: what else the board does must not be heard.
        if (snd_pcm_set_params(pcm, SND_PCM_FORMAT_S16, SND_PCM_ACCESS_RW_INTERLEAVED, 1, RATE, 0, 500000) == 0) {
            if (!told++) printf("ready\n");
            play(pcm);
        }
        snd_pcm_close(pcm);
    }
}
