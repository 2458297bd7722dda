#!/bin/sh
# Sourced in the guest: the camera sees /share/picture.raw (800x600 YUYV frames, over and over), and what captures from
# hw:CARD=Loopback,DEV=0 hears /share/sound.wav (over and over).
capture=/dev/video0 output=/dev/video1
for node in $output $capture; do
    v4l2-ctl -d "$node" --set-dv-bt-timings cvt,width=800,height=600,fps=30 > /dev/null
done
v4l2-ctl -d $capture -c loop_video=1 -c osd_text_mode=2
v4l2-ctl -d $output --set-fmt-video-out=width=800,height=600,pixelformat=YUYV
v4l2-ctl -d $output --stream-out-mmap --stream-from=/share/picture.raw --stream-loop > /dev/null 2>&1 &
(while :; do aplay -q -D hw:0,1,0 /share/sound.wav || sleep 1; done) > /dev/null 2>&1 &
