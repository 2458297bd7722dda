#!/bin/sh
# Sourced by what runs in the guest (board.py): a camera and a microphone that see and hear what is played, girasol, and
# marks. /share/marks gets a line for each mark: seconds since boot, then words.
bus=/sys/bus/platform/drivers
touch /share/log

uptime() { cut -d' ' -f1 /proc/uptime; }
mark() { echo "$(uptime) $*" >> /share/marks; }
die() { mark "failed: $*"; exit 1; }

# `until_true SECONDS WHAT COMMAND...`
until_true() {
    limit=$1 what=$2
    shift 2
    deadline=$(awk -v limit="$limit" '{ print $1 + limit }' /proc/uptime)
    until "$@" > /dev/null 2>&1; do
        awk -v deadline="$deadline" '{ exit !($1 > deadline) }' /proc/uptime && die "not within $limit s: $what"
        sleep 0.2
    done
}

# vivid's nodes, by what they do: their numbers change.
node() { grep -l "vid-$1\$" /sys/class/video4linux/video*/name | head -n 1 | sed 's|.*/\(video[0-9]*\)/name|/dev/\1|'; }
has_camera() { [ -n "$(node cap)" ] && [ -c "$(node cap)" ] && [ -c "$(node out)" ]; }

# The camera is a receiver that sees what is written to its own output. 640x480 at 39 is the least that vivid takes.
set_camera() {
    until_true 10 'camera nodes' has_camera
    for end in out cap; do
        v4l2-ctl -d "$(node $end)" --set-dv-bt-timings cvt,width=640,height=480,fps=39 > /dev/null || return 1
    done
    v4l2-ctl -d "$(node out)" --set-fmt-video-out=width=640,height=480,pixelformat=YUYV &&
        v4l2-ctl -d "$(node cap)" -c loop_video=1 -c osd_text_mode=2 && ln -sf "$(node out)" /tmp/camera-output
}
unplug_camera() { echo vivid.0 > $bus/vivid/unbind; }
plug_camera() {
    echo vivid.0 > $bus/vivid/bind
    # girasol was quicker than we, and what streams cannot be set any more: once more.
    until set_camera; do
        unplug_camera
        sleep 0.5
        echo vivid.0 > $bus/vivid/bind
    done
}
unplug_microphone() { echo snd_aloop.0 > $bus/snd_aloop/unbind; }
plug_microphone() { echo snd_aloop.0 > $bus/snd_aloop/bind; }

# `play [FOLDER]`: what microphone and camera get, /share/clip, each time that /share/clip/go appears.
play() {
    set_camera || die 'vivid cannot be set'
    [ -x /tmp/player ] || cp /share/player /tmp/player
    /tmp/player /tmp/camera-output hw:CARD=Loopback,DEV=1 "${1:-/share/clip}" > /share/played 2>&1 &
    player=$!
    until_true 60 'the player is ready' grep -q ready /share/played
}
play_no_more() {
    kill "$player"
    wait "$player"
    true
}
play_clip() {
    played=$(grep -c end /share/played)
    touch /share/clip/go
}
# `play_to_end [SECONDS]`: the clip takes 13.
play_to_end() {
    play_clip
    until_true "${1:-60}" 'the clip is over' clip_is_over
}
clip_is_over() { [ "$(grep -c end /share/played)" -gt "$played" ]; }

# girasol as it is shipped, with /share/girasol.toml; its log goes to /share/log.
start() {
    [ -x /tmp/girasol ] || cp /share/root/usr/bin/girasol /tmp/girasol
    runs=$(count ' running ')
    mark start
    STATE_DIRECTORY=/tmp/state /tmp/girasol run --config /share/girasol.toml --bundle /share/root/usr/share/girasol/bundle \
        >> /share/log 2>&1 &
    girasol=$!
    until_true 120 'girasol runs' again "$runs" ' running '
    mark running
}
alive() { kill -0 "$girasol"; }
count() { grep -c -e "$1" /share/log; }
# `again COUNT PATTERN`: the log has it more often than COUNT times.
again() { [ "$(count "$2")" -gt "$1" ]; }
# `opened SECONDS DEVICE...`
opened() {
    limit_open=$1
    shift
    for device in "$@"; do until_true "$limit_open" "$device open" grep -q "$device open" /share/log; done
}
# `used WORDS`: processor time and memory of girasol so far, in ticks of 10 ms and KiB.
used() {
    mark "used $(awk '{ print $14 + $15 }' /proc/"$girasol"/stat) $(awk '/VmRSS/ { print $2 }' /proc/"$girasol"/status) $*"
}
stop() {
    mark term
    kill -TERM "$girasol"
    wait "$girasol"
    mark "stopped $?"
}
