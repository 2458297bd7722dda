"""Runs a program under the counting emulator and answers its readings of the clock: `snippet.py CPU COMMAND...`.

The emulator's plugin puts the instructions executed so far in front of whatever the program writes. A line `mark` asks
for that number; lines that begin with `count` are results and are printed behind the CPU's name.
"""

import subprocess
import sys


def main(cpu, command):
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as program:
        for line in program.stdout:
            executed, _, rest = line.rstrip().partition(" ")
            if rest == "mark":
                program.stdin.write(f"{executed}\n")
                program.stdin.flush()
            elif rest.startswith("count "):
                print(cpu, rest, flush=True)
    return program.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
