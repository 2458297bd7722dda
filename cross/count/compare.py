"""Reads what `ops_count` and `snippet_count` wrote under the counting emulator and compares it with the committed
baseline.

A line of the first is `CPU COUNT PART OPERATOR MACS TIMES RUNS`: instructions executed before the operator's run number
RUNS (0, 1 and 4). Three runs less one are two, free of what stands around them. A line of the second is
`CPU count PART STAGE MACS TIMES COUNT`, of one run.
"""

import collections
import pathlib
import sys

TOLERANCE = 0.02
ENCODERS = ["video_encoder", "audio_encoder"]
PER_SNIPPET = {"video_encoder": 2, "audio_encoder": 2}
Key = collections.namedtuple("Key", "cpu part operator macs times")


def read_counts(lines):
    """Instructions of one run of each operator, in order."""
    marks, counts = {}, {}
    for line in lines:
        cpu, count, *fields = line.split()
        if count == "count":
            part, operator, macs, times, count = fields
            counts[Key(cpu, part, operator, int(macs), int(times))] = int(count)
        elif len(fields) == 5:
            part, operator, macs, times, runs = fields
            marks.setdefault(Key(cpu, part, operator, int(macs), int(times)), {})[int(runs)] = int(count)
    for key, at in marks.items():
        twice = (at[4] - at[1]) - (at[1] - at[0])
        assert twice > 0, f"{key}: {at}"
        counts[key] = round(twice / 2)
    return counts


def read_baseline(path):
    counts = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            cpu, part, operator, macs, times, count = line.split("\t")
            counts[Key(cpu, part, operator, int(macs), int(times))] = int(count)
    return counts


def write_baseline(path, counts):
    head = "# cpu, part, operator, MACs (elements), times in the network, instructions of one run; `make count-accept`"
    path.write_text("\n".join([head, *("\t".join(map(str, (*key, count))) for key, count in counts.items())]) + "\n")


def totals(counts):
    """Per CPU and encoder: (MACs, instructions) of each kind of operator, as often as the network runs it."""
    sums = collections.defaultdict(lambda: [0, 0])
    for key, count in counts.items():
        if key.part in ("video", "audio"):
            total = sums[key.cpu, key.part, key.operator.split("-")[0]]
            total[0] += key.macs * key.times
            total[1] += count * key.times
    return sums


def ratios(counts):
    """Per CPU: (stage or both encoders, instructions in int8 / in f32 by stock tract), as often as a snippet runs it."""
    per_snippet = {(key.cpu, key.part, key.operator): count * key.times for key, count in counts.items()}
    for cpu in dict.fromkeys(key.cpu for key in counts):
        for name, stages in {
            **{name: [name] for name in ENCODERS},
            "encoders": ENCODERS,
            "snippet": ["snippet"],
        }.items():
            sums = [sum(per_snippet.get((cpu, part, stage), 0) for stage in stages) for part in ("int8", "f32")]
            if all(sums):
                yield cpu, name, sums[0] / sums[1]


def report(counts, baseline):
    """Prints every operator and returns what is worse than the baseline allows."""
    worse = []
    for key, count in counts.items():
        before = baseline.get(key)
        change = "new" if before is None else f"{100 * (count / before - 1):+.1f} %"
        each = f"{count / key.macs:8.4f}" if key.macs else " " * 8
        print(f"{key.cpu:<11} {key.part:<10} {key.operator:<34} {each} {count:>10} {change:>8}")
        if before is None or count > before * (1 + TOLERANCE):
            worse.append(f"{key.cpu} {key.part} {key.operator}: {count} instructions, {before} in the baseline")
    for (cpu, part, kind), (macs, count) in totals(counts).items():
        print(f"{cpu:<11} {part:<10} all {kind:<30} {count / macs:8.4f} {count:>10}")
    for cpu, graph, ratio in ratios(counts):
        print(f"{cpu:<11} {graph:<34} int8 / f32 of stock tract {ratio:.3f}")
    worse += [f"{key.cpu} {key.part} {key.operator}: not counted any more" for key in baseline.keys() - counts.keys()]
    return worse


def report_peer(counts, baseline):
    """Prints LiteRT's counts and the sums of girasol's operators in the baseline. (Like LiteRT's model, these have no
    layer norm at the end.)"""
    ours = collections.defaultdict(int)
    for key, count in baseline.items():
        ours[key.cpu, f"{key.part}_encoder"] += count * key.times
    sums = collections.defaultdict(lambda: [0, 0])
    for key, count in counts.items():
        own = ours[key.cpu, key.operator]
        print(f"{key.cpu:<11} {key.operator:<16} LiteRT {count:>10}  girasol {own:>10}  {own / count:.3f}")
        for index, value in enumerate((own, count)):
            sums[key.cpu][index] += value * PER_SNIPPET[key.operator]
    for cpu, (own, peer) in sums.items():
        print(f"{cpu:<11} {'encoders':<16} LiteRT {peer:>10}  girasol {own:>10}  {own / peer:.3f}, of a snippet")
    return "girasol's figures are the committed baseline's"


def main(mode, baseline_path, counts_path):
    path = pathlib.Path(baseline_path)
    counts = read_counts(pathlib.Path(counts_path).read_text().splitlines())
    baseline = read_baseline(path) if path.exists() else {}
    if mode == "peer":
        return report_peer(counts, baseline)
    worse = report(counts, baseline)
    if mode == "accept":
        write_baseline(path, counts)
        return f"{len(counts)} figures written to {baseline_path}"
    if worse:
        sys.exit(
            "\n".join([*worse, f"More than {TOLERANCE:.0%} over the baseline: find out why, or `make count-accept`."])
        )
    return f"{len(counts)} figures within {TOLERANCE:.0%} of the baseline or below"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
