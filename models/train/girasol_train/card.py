"""Write `MODEL_CARD.md` and `ATTRIBUTION.md` beside the bundle, from the manifest, the rules and the evaluation.

Everything that is a number comes from files that the other stages wrote; the prose states what the numbers mean and
what was not measured.
"""

from __future__ import annotations

import csv
import json
import pathlib
from collections import defaultdict
from typing import Any

from .ablate import WHOLE_METRICS
from .calibrate import FALSE_PER_HOUR, HIGHEST_ON, MIN_EVENTS, MIN_RECALL, NEVER, WANTED, WANTED_PER_HOUR

INTRO = """# Model card: girasol-av {version}

A joint audio-video streaming model for small ARM boards: every 0.96 s it takes a log-mel patch, another that begins
half a snippet earlier, and up to two frames of 128 x 96, keeps a bounded memory of the last minute, and gives label
probabilities, a prediction of the next snippet ("surprise") and, on request, one short English sentence. Made by
`models/train` (see its modules for every choice); made on {created}. Licence of the weights: {licence}.

**Intended use**: notification-grade events in and around a home (a dog barks, a phone rings, somebody is in view).
**Not** for safety, security or medical decisions, nor for identifying people: it knows that there is a person, not who.
"""

LIMITS = """## What to know before trusting it

- **No paired recordings.** Sound and picture of the training scenes were composed from separate clips and photographs.
  Whether a sound comes from what is in view is therefore learned as "something that can make this sound is visible",
  not from lip or motion synchrony: a radio and a silent person in view read as that person speaking.
- **Few sources.** Many classes rest on 20 to 50 recordings, `scream` on 11, `cat` in the picture on 5 photographs of
  house cats, some of wild ones that look alike, and what lite0 knows of them; `dog` on dalmatians and a few others.
  Test counts stand beside every score; where they are below ten, a score says little.
- **`phone_ring` was trained on synthesised rings only** (mechanical bells, warbles, trills, melodies); there is no
  recorded ring in the kit, so its score below is on other synthesised rings.
- Not in the data: night or infra-red views, fish-eye lenses, far-field speech, people moving through rooms, languages
  other than those of the speech clips. Cartoons, screens and printed pictures of things count as the things.
- **Short sounds cut by a snippet's border** can be weaker: see the onset table. Two patches of sound a snippet, one
  every 0.48 s, are worth .020 of the audible mean AP on validation scenes (.725 against .705 for the same weights with
  the early patch absent). Taking two snippets together where one is enough finds about two events in a hundred more on
  composed test scenes at as many false alarms. (Both measured with bundle 0.5.0.)
- Answers to questions of a closed list come from the history of the label scores, which is right more often than the
  decoder (see below); other questions go to the decoder, which should answer "i don't know" and does not always.
  What is wrong in them is wrong in the scores: other thresholds for answers, with and without hysteresis, one for all
  labels or one for each, were worth at most one answer in a hundred on the test part.
- A sentence puts into words what the scores claim; where they are wrong, so is the sentence.
- The published COCO and YAMNet teachers may have seen some of the kit's media in their own training.
- False alarms per hour come from composed scenes that are far busier than a room; a quiet room should do better, an
  unusual one (a workshop, a parrot) worse. Nothing here was measured on a months-long recording.
"""

TRAINING = """## How it was made

1. Audio encoder: YAMNet's trunk without its last block (Apache-2.0 weights), distilled on augmented mixtures, with
   masked bands and moments (arXiv 1904.08779). Video encoder: EfficientNet-lite0's first stages (Apache-2.0 weights),
   distilled with YOLOX-nano on pictures and lite0 on every view as teachers (arXiv 2106.05237).
2. Both frozen; tokens of {audio:,} composed audio and {video:,} composed video snippets cached; training scenes pair
   any sound track with any picture track, with missing frames, modalities and gaps.
3. Combiner (Token Turing Machine, grouped by modality, time-stamped), two block-causal latent layers over 64 snippets,
   two decoder layers: {steps:,} steps of 256 snippets on CPU cores, after a warm start of
   {warm:,}{begun}{taught}{runs}.
4. Calibration per label (folded into the heads) and thresholds, on tokens of encoders with the weights that ship; int8
   weights per channel; every exported file agrees with torch within 1e-4.

Data: {data}. Media licences: {licences}. Credits: [ATTRIBUTION.md](ATTRIBUTION.md).
Split by source; validation carved out of train by hash of the source id; nothing of the test split was trained on. Two
fifths of the test sources are *final*: kept for the last evaluation ([list](train/girasol_train/final_sources.txt));
the first bundle (0.1.0) had been measured on all of them before the list was drawn.

The media kit is not part of the repository, so the training can be repeated only by those who have it; what anybody can
repeat is the evaluation of the shipped files, on clips of their own: `girasol eval`
([how](../docs/reference/eval.md)).
"""


def table(header: list[str], rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(str(v) for v in row) + " |" for row in rows)]) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def size_section(body: dict[str, Any]) -> str:
    graphs = body["graphs"]
    rows = [[name, f"{g['parameters']:,}", f"{g['macs'] / 1e6:.1f} M", f"{g['bytes']:,}"] for name, g in graphs.items()]
    snippet = sum(g["macs"] * (2 if n.endswith("encoder") else 1) for n, g in graphs.items() if n != "decoder")
    total = sum(g["parameters"] for g in graphs.values()), sum(g["bytes"] for g in graphs.values())
    rows.append(["**all, per snippet**", f"{total[0]:,}", f"{snippet / 1e6:.1f} M", f"{total[1]:,}"])
    note = "\nPer snippet: two frames, two patches, Combiner and latent model; the decoder's figure is per token.\n"
    return "## Size\n\n" + table(["graph", "parameters", "MAC per call", "bytes"], rows) + note


def scene_section(rows: list[dict[str, Any]]) -> str:
    parts = [
        "## Composed test scenes\n\nAP and F1 over snippets (F1 at the `best_f1` threshold); events at the default "
        "`low_false_alarm` thresholds. *found* counts true events that were found, *false* those made where the "
        "label was neither true nor unknown: these scenes hold about a thousand other sounds and five hundred cuts an "
        "hour. Thresholds were set on the validation part, which for many labels has two or three sources, so the rate "
        "on the test part differs.\n\n"
    ]
    for kind in ("audible", "visible"):
        body = [
            [r["label"], standing(r), r["snippets"], number(r["ap"]), number(r["f1"]),
             f"{r['found']}/{r['events']}", r["false"], number(r["false_per_hour"], 1)]
            for r in rows if r["kind"] == kind
        ]  # fmt: skip
        valid = [r["ap"] for r in rows if r["kind"] == kind and r["ap"] == r["ap"] and r["label"] != "background"]
        head = [kind, "default", "snippets", "AP", "F1", "found", "false", "false/h"]
        parts.append(table(head, body) + f"\nMean AP, {kind}: {number(sum(valid) / max(1, len(valid)))}.\n\n")
    return "".join(parts)


def standing_section(rules: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Which labels make events by default, and what that was decided on."""
    parts = [
        "## Which labels are on\n\nA label is *experimental*, and off unless switched on, if it has not been shown to "
        f"be reliable: at least {MIN_EVENTS} events on composed validation scenes, {MIN_RECALL:.0%} of them found, at "
        f"no more than {FALSE_PER_HOUR['audible']} false events an hour ({WANTED_PER_HOUR:.0f} for "
        f"{', '.join(sorted(WANTED - NEVER))}). So what is on can still miss more than half, as the table says. Where "
        "validation has too few, test scenes say whether the label is on (not at which threshold), unless no threshold "
        f"below {HIGHEST_ON} keeps to that rate on validation scenes. "
        f"{', '.join(sorted(NEVER))} are off whatever they do: no events, of no use around a home, or the same as "
        "another label again.\n\n"
    ]
    for kind, table_ in rules.items():
        rows = [[name, standing(rule), rule["thresholds"]["low_false_alarm"]["on"], rule["min_snippets"], e["of"],
                 f"{e['found']}/{e['there']}", e["false"], number(e["false"] / e["hours"], 1)]
                for name, rule in table_.items() for e in [rule["evidence"]]]  # fmt: skip
        parts.append(table([kind, "default", "on at", "snippets", "scenes of", "found", "false", "false/h"], rows))
    return "\n".join(parts)


def staged_section(staged: dict[str, dict[str, Any]]) -> str:
    rows = [[mode, r["scenes"], f"{r['found']}/{r['expected']}", r["extra"], f"{r['perfect']}/{r['scenes']}"]
            for mode, r in staged.items()]  # fmt: skip
    lines = [
        "## Staged scenes\n\nFive acts in random order over room noise, from test sources, through the shipped files: "
        "a person in view speaks, a phone rings, a cat or dog is in view, a dog barks, glass breaks.\n\n",
        table(["thresholds", "scenes", "found", "extra events", "exactly right"], rows),
    ]
    default = staged["low_false_alarm"]
    for name in ("missed", "unexpected"):
        counted = sorted(default[name].items(), key=lambda item: -item[1])
        listed = ", ".join(f"{k} {v}" for k, v in counted) or "none"
        lines.append(f"\n{name.capitalize()} at the default: {listed}.")
    return "".join(lines) + "\n"


def quiet_section(quiet: dict[str, Any]) -> str:
    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{k} {v}" for k, v in sorted(counts.items(), key=lambda item: -item[1])) or "none"

    return (
        f"## While nothing happens\n\n{quiet['hours']:.2f} hours of recorded or synthetic room noise before views of "
        f"things without a label (test sources, a new scene every half minute): {quiet['per_hour']:.1f} events an "
        f"hour, all labels together ({listed(quiet['events'])}). Not counted: what YAMNet hears in the same recording "
        f"too, since outdoor and cafe noise holds birds and voices ({listed(quiet['heard_by_teacher'])}).\n"
    )


def other_sections(report: dict[str, Any]) -> str:
    clips, parts = report["clips"], []
    parts.append(
        f"## Clean test clips\n\n{clips['clips']} clips, each alone through the shipped files, no camera: accuracy "
        f"{clips['accuracy']:.3f} over 39 classes, macro recall {clips['macro_recall']:.3f} (ridge on YAMNet's "
        "embeddings: 0.88 / 0.85). In scenes `background` may be heard beside anything; here it is the answer where no "
        f"other label reaches {clips['silence']:.2f}. A clip's score is the {clips['pool']} of its snippets; that and "
        f"the limit were chosen on the validation clips (accuracy there {clips['validation_accuracy']:.3f}).\n"
    )
    pictures = report["pictures"]
    rows = [
        [name, r["positive"], *(v for k in ("human", "assumed") for v in (r[f"{k}_negative"], number(r[f"{k}_ap"]))),
         number(r.get("f1")), number(r.get("yolox_f1"))]
        for name, r in pictures.items()
    ]  # fmt: skip
    head = ["label", "positive", "negative (human)", "AP", "negative (assumed too)", "AP", "F1", "F1, YOLOX-nano"]
    shared = [r for name, r in pictures.items() if "yolox_f1" in r and r["positive"] >= 8 and name != "person"]
    means = [sum(r[k] for r in shared) / max(1, len(shared)) for k in ("f1", "yolox_f1")]
    macro = [number(mean) if shared else "-" for mean in means]
    parts.append(
        "## Test pictures\n\nWhole pictures, shown still for one snippet, without sound. Human negatives are few, so "
        "the first AP is flattering; *assumed* adds catalogue pictures of other things in which YOLOX-nano finds "
        "nothing of the label. F1 on human labels alone: ours at the `best_f1` threshold on 128 x 96, YOLOX-nano's at "
        "0.3 on the full-size picture.\n\n"
        + table(head, rows)
        + f"\nMacro F1 over the {len(shared)} tags beside `person` that both know, with at least 8 pictures: "
        f"{macro[0]}, YOLOX-nano {macro[1]}.\n"
    )
    sentences = report["sentences"]
    rows = [[k, r["count"], number(r["exact"]), number(r["label_f1"]), number(r["template_f1"])]
            for k, r in sentences["table"].items()]  # fmt: skip
    title = "## Sentences\n\nComposed test scenes, against the composed truth. *label F1*: the things one names.\n\n"
    parts.append(title + table(["prompt", "count", "exact", "label F1", "template's"], rows))
    picked = [[f"`{s['prompt']}`", s["said"], s["truth"]] for s in sentences["samples"][:24]]
    parts.append("Samples, in order of drawing:\n\n" + table(["prompt", "said", "truth"], picked))
    if "onset" in report:
        rows = [[name, row["clips"], *map(number, row["recall"]), worst_over_best(row["recall"])]
                for name, row in report["onset"].items()]  # fmt: skip
        phases = len(rows[0]) - 3
        head = ["label", "clips", *(f"{k}/{phases}" for k in range(phases)), "worst / best"]
        title = "## Recall by onset within a snippet\n\nDefault thresholds; clips at -25 dBFS, noise at -65. Test and "
        title += "validation sources: the encoder was trained on neither, the thresholds were set on scenes of the "
        title += "latter.\n\n"
        parts.append(title + table(head, rows))
    return "\n".join(parts)


def standing(row: dict[str, Any]) -> str:
    return "on" if row["enabled"] else "off, experimental" if row["experimental"] else "off"


def worst_over_best(recall: list[float]) -> str:
    return number(min(recall) / max(recall)) if max(recall) else "-"


def begun(report: dict[str, Any], training: dict[str, Any]) -> str:
    """What the student started from."""
    before, restored = training.get("begun"), training.get("restored")
    if before:
        return f" (on other tracks{taught(report, before)}{averaged(before)})"
    if not restored:
        return ""
    lesson = ", which had learned from a teacher of more than four times its parameters"
    whose = "the decoder alone, the rest from scratch: the" if restored.get("parts") == "decoder" else "the"
    return f" ({whose} weights of bundle {restored['version']}{lesson if restored['teacher'] else ''})"


def taught(report: dict[str, Any], training: dict[str, Any]) -> str:
    """Who taught the student."""
    teachers, students = training.get("teachers", []), report.get("students", {})
    if not teachers or students.get("teacher", {}).get("checkpoint") not in teachers:
        return ""
    times = students["teacher"]["parameters"] / students["taught"]["parameters"]
    more = f" and {len(teachers) - 1} other Combiners, on the mean" if len(teachers) > 1 else ""
    return f", half of its label and text losses from a teacher of {times:.2f} times the parameters{more}"


def averaged(training: dict[str, Any]) -> str:
    runs = training.get("fusion_runs", 1)
    mixed = ", not all of them taught" if training.get("fusion_runs_mixed") else ""
    return f"; the mean of the weights of {runs} such trainings{mixed} (arXiv 2203.05482)" if runs > 1 else ""


def spread(entry: dict[str, float], digits: int = 3) -> str:
    """Value and interval, or mean and range."""
    value = entry.get("value", entry.get("mean"))
    return f"{number(value, digits)} ({number(entry['low'], digits)} – {number(entry['high'], digits)})"


def figure_rows(entries: dict[str, dict[str, float]]) -> list[list[str]]:
    return [[name, spread(entry)] for name, entry in entries.items()]


def int8_section(cost: dict[str, Any]) -> str:
    """Differences graph by graph."""
    metrics = list(cost["int8"])
    plus = lambda value: f"{round(value, 4) + 0.0:+.4f}"  # noqa: E731 - no minus before nothing
    signed = lambda e: f"{plus(e['value'])} ({plus(e['low'])} – {plus(e['high'])})"  # noqa: E731
    body = [[name, *(signed(row["differences"][m]) for m in metrics), f"{cost['right']} / {row['right']}"]
            for name, row in cost["rows"].items()]  # fmt: skip
    whole = ", ".join(f"{m} {number(v['value'], 3)}" for m, v in cost["int8"].items())
    note = ""
    if cost["already_rounded"]:
        names = ", ".join(cost["already_rounded"])
        note = f"\nOf {names} the weights of before rounding are not kept: only the arithmetic is in f32 there.\n"
    return (
        f"## What int8 costs\n\nThe shipped bundle ({whole}) less the same with one graph, or all, in f32 as it was "
        f"trained: weights and arithmetic. {cost['clips']} clips of the final sources, through the runtime; paired, "
        f"with 95 % bootstrap intervals over clips. *Answers*: right ones of {cost['asked']} in int8 and with the "
        "graph in f32, all by the decoder.\n\n" + table(["graph", *metrics, "answers"], body) + note
    )


def students_section(students: dict[str, dict[str, Any]], training: dict[str, Any]) -> str:
    names = {"teacher": "teacher", "taught": "student, taught", "alone": "student, from the truth alone",
             "mean": "mean of several students", "further": "that, trained further"}  # fmt: skip
    there = [name for name in names if name in students]
    body = [["parameters", *(f"{students[name]['parameters']:,}" for name in there)],
            ["steps", *(f"{students[name]['steps']:,}" for name in there)]]  # fmt: skip
    scores = [students[name]["validation"] for name in there]
    body += [[title, *(number(score[m], 3) for score in scores)] for m, title in WHOLE_METRICS.items()]
    shipped = "student that was taught" if training.get("teachers") else "student that learned from the truth alone"
    if training.get("fusion_runs", 1) > 1:
        shipped = names["mean"]
    if training.get("begun"):
        shipped = "student that was trained further"
    others = len(students.get("taught", {}).get("teachers", [])) - 1
    note = f" {students['note']}" if "note" in students else ""
    beside = f" The teacher taught together with {others} other Combiners, on the mean." if others > 0 else ""
    return (
        "## Teacher and student\n\nCombiner, latent model, heads and decoder, before the decoder's tuning, on the same "
        "tokens; validation scenes, mean AP over all validation tracks, one training each. The "
        f"{shipped} ships.{beside}{note}\n\n" + table(["", *(names[name] for name in there)], body)
    )


def ablation_table(rows: list[dict[str, Any]]) -> str:
    metrics = {"audible_map": "audible mAP", "visible_map": "visible mAP", "source_ap": "source AP",
               "words": "words right", "answer_accuracy": "answers right"}  # fmt: skip
    body = [[r["name"], f"{r['parameters'] / 1e6:.2f} M", f"{r['macs'] / 1e6:.1f} M", r["tokens"], r["seeds"],
             *(spread(r[m]) for m in metrics)] for r in rows]  # fmt: skip
    return table(["", "parameters", "MAC", "tokens", "seeds", *metrics.values()], body)


def earlier(report: dict[str, Any]) -> str:
    """What a table is of, where it was not made again for this bundle's very tokens."""
    return f" (of {report['of']})" if "of" in report else ""


def ablation_section(ablation: dict[str, Any]) -> str:
    schedule, rows = ablation["schedule"], ablation["rows"]
    first = rows[0]
    better = [f"{r['name']} ({m})" for r in rows[1:] for m in ("audible_map", "visible_map", "source_ap", "words")
              if r[m]["low"] > first[m]["high"]]  # fmt: skip
    verdict = ", ".join(better) if better else "none"
    return (
        "## What each part is worth\n\nStudent size, from scratch, the same "
        f"{schedule['steps']} steps of {schedule['snippets_per_step']} snippets for every row, mean and range over the "
        f"seeds, on validation scenes of 64 snippets{earlier(ablation)}. "
        "Parameters and MAC per snippet of Combiner and latent model. "
        "*Words* and *answers*: answers to questions, word by word and whole, each word given the right ones before. "
        "So short a schedule ranks what is learned quickly and says little about answers.\n\n"
        + ablation_table(rows)
        + f"\nAbove the first row by more than the range of the seeds: {verdict}.\n"
    )


def combiners_section(combiners: dict[str, Any]) -> str:
    body = [[r["name"], f"{r['parameters'] / 1e6:.2f} M", f"{r['macs'] / 1e6:.1f} M", r["seeds"],
             *(spread(r[m]) for m in WHOLE_METRICS)] for r in combiners["rows"]]  # fmt: skip
    first, better = combiners["rows"][0], []
    for row in combiners["rows"][1:]:
        ahead = [name for m, name in WHOLE_METRICS.items() if row[m]["low"] > first[m]["high"]]
        behind = [name for m, name in WHOLE_METRICS.items() if row[m]["high"] < first[m]["low"]]
        said = [f"above in {', '.join(ahead)}"] * bool(ahead) + [f"below in {', '.join(behind)}"] * bool(behind)
        better += [f"{row['name']} {' and '.join(said)}"] if said else []
    return (
        f"On the student's own schedule, {combiners['steps']:,} steps of 256 snippets, from scratch and without a "
        f"teacher, mean and range over trainings that met other scenes{earlier(combiners)}; mean AP over all "
        "validation tracks. The Combiner of the first row ships.\n\n"
        + table(["", "parameters", "MAC", "trainings", *WHOLE_METRICS.values()], body)
        + f"\nBeside the first row, by more than the range: {'; '.join(better) or 'none differs'}.\n"
    )


def work(visible: dict[str, Any]) -> str:
    macs = visible.get("macs")
    if not macs:
        return ""
    ours, theirs = macs["girasol"], macs["YOLOX-nano"]
    return f"; work per frame {ours / 1e6:.1f} against {theirs / 1e6:.1f} M MAC, {ours / theirs:.3f} of it"


def events_on(final: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Events of the labels that are on and occur."""
    return [(row["label"], row["events"]) for row in final["runtime"]["labels"]
            if row.get("enabled") and row.get("events") and row["events"]["there"]]  # fmt: skip


def mean_recall(final: dict[str, Any]) -> str:
    events = [e for _, e in events_on(final)]
    quiet = [e for e in events if e["false_per_hour"] <= LOUD]
    recalls = [sum(e["found"] / e["there"] for e in some) / max(1, len(some)) for some in (events, quiet)]
    rate = sum(e["false_per_hour"] for e in events) / max(1, len(events))
    return (
        f"\nMean recall of the {len(events)} labels that are on and occur: {number(recalls[0], 3)}, at {number(rate)} "
        f"false events an hour on the mean; of the {len(quiet)} at no more than {LOUD:.0f} an hour: "
        f"{number(recalls[1], 3)}.\n"
    )


def final_section(report: dict[str, Any]) -> str:
    runtime, found = report["runtime"], []
    found.append(
        f"## Final sources, through the runtime\n\n{report['clips']} composed clips of half a minute from the sources "
        "kept for this, played by `girasol eval` through the shipped files; a tenth has no picture, a tenth no sound. "
        "Value and 95 % bootstrap interval over clips; differences are paired.\n"
    )
    found.append(table(["audible, mean AP", "(95 %)"], figure_rows(report["audible_map"])))
    found.append(table(["visible", "(95 %)"], figure_rows(report["visible"]["map"])))
    tags = report["visible"]["tags"]
    systems = [k for k in ("girasol", "YOLOX-nano", "girasol - YOLOX-nano") if k in next(iter(tags.values()))]
    rows = [[name, t["snippets"], *(spread(t[k], 2) for k in systems)] for name, t in tags.items()]
    found.append(
        "F1 on the same frames of 128 x 96 (ours at the `best_f1` threshold, YOLOX-nano's at 0.3, the frames "
        f"scaled up to its own 416 x 416){work(report['visible'])}:\n\n" + table(["tag", "snippets", *systems], rows)
    )
    source = report["source"]
    title = f"Source in view, {source['pairs']} pairs of snippet and sound, {source['true']} of them true:\n\n"
    found.append(title + table(["as shipped, and by the rule", "(95 %)"], figure_rows(source["figures"])))
    rows = []
    for row in runtime["labels"]:
        events = row.get("events")
        if events and events["there"]:
            rows.append([row["label"], "on" if row["enabled"] else "off", f"{events['found']}/{events['there']}",
                         " – ".join(number(v) for v in events["recall_95"]), events["false_without"],
                         number(events["hours_without"]), number(events["false_per_hour"], 1),
                         number(events["false_per_hour_bound_95"], 1)])  # fmt: skip
    found.append(
        "Events at the shipped thresholds; false ones in clips without the label, with the one-sided 95 % bound:\n\n"
        + table(["label", "default", "found", "95 %", "false", "hours", "false/h", "at most"], rows)
        + mean_recall(report)
    )
    sentences, answers = report["sentences"], report["answers"]
    blind, gain = sentences["without_picture"], sentences["figures"]["decoder - template"]
    adds = "" if gain["low"] > 0.0 else (
        "\nThat is not better than the template beyond chance: what the decoder adds is text where there is no rule to "
        f"make it from. On its own it answers {answers['decoder_right']} of {answers['asked']} questions word for "
        "word.\n"
    )  # fmt: skip
    found.append(
        f"Captions ({sentences['count']} snippets), label F1, against a template over the same scores:\n\n"
        + table(["", "(95 %)"], figure_rows(sentences["figures"]))
        + adds
        + f"\nWithout a picture {blind['speak_of_view']} of {blind['count']} captions spoke of the view.\n"
        + f"\nAnswers, word for word: {answers['shipped_right']} of {answers['asked']} as shipped (from the history of "
        f"scores, where the question is in the closed list), {answers['decoder_right']} by the decoder alone, "
        f"{answers['history_right']} by the same history in Python.\n"
    )
    samples = [[number(s["f1"]), s["said"], s["template"], s["truth"]] for s in sentences["samples"]]
    found.append("Samples, worst first:\n\n" + table(["F1", "said", "template", "truth"], samples))
    return "\n".join(found)


LOUD = 1.0  # false events an hour that a label may make
TRIED = """Why: many labels rest on two or three sources in validation, where thresholds are set, and the encoders seem
to be as good as the recordings allow. What was tried and what it was worth: [HISTORY.md](train/HISTORY.md).
"""


def shortfalls(report: dict[str, Any]) -> str:
    """What misses the bounds of SPECIFICATION.md, from the reports, and what was tried."""
    final, found = report["final"], []
    right, asked = final["answers"]["shipped_right"], final["answers"]["asked"]
    clips = report["clips"]
    for name, bound in (("accuracy", 0.88), ("macro_recall", 0.85)):
        if clips[name] < bound:
            found.append(f"- Clean test clips: {name.replace('_', ' ')} {number(clips[name], 3)} of {clips['clips']} "
                         f"clips, bound {bound}.")  # fmt: skip
    if right < 0.85 * asked:
        kinds = final["answers"]["history_by_kind"].items()
        weak = ", ".join(f"{kind} {got}/{all_}" for kind, (got, all_) in kinds if got < 0.85 * all_)
        found.append(f"- Questions: {right} of {asked} right, bound 0.85. Below it by kind (scores in Python): {weak}.")
    for label, row in report.get("onset", {}).items():
        if min(row["recall"]) < 0.9 * max(row["recall"]):
            found.append(f"- Onset of `{label}`: worst against best {worst_over_best(row['recall'])}, bound 0.9 "
                         f"({row['clips']} clips).")  # fmt: skip
    loud = sorted((-e["false_per_hour"], name, e) for name, e in events_on(final) if e["false_per_hour"] > LOUD)
    if loud:
        listed = ", ".join(f"{name} {number(-rate, 1)} ({e['false_without']} in {number(e['hours_without'], 1)} h)"
                           for rate, name, e in loud)  # fmt: skip
        found.append(f"- More than one false event an hour in clips without the label: {listed}.")
    return "## What falls short\n\n" + "\n".join([*found, "", TRIED]) if found else ""


def more_sections(report: dict[str, Any], training: dict[str, Any], folder: pathlib.Path) -> list[str]:
    parts = []
    if "final" in report:
        parts += [final_section(report["final"]), shortfalls(report)]
    if "int8" in report:
        parts.append(int8_section(report["int8"]))
    choice = training.get("in_view")
    if choice:
        rows = [[name, number(choice[name]["ap"]), number(choice[name]["f1"])] for name in ("head", "rule")]
        text = f"Validation scenes, {choice['pairs']} pairs of snippet and sound; the {choice['shipped']} ships.\n\n"
        parts.append("## Source in view: the model's head or the rule\n\n" + text + table(["", "AP", "F1"], rows))
    if "students" in report:
        parts.append(students_section(report["students"], training))
    if "ablation" in report:
        parts.append(ablation_section(report["ablation"]))
    if "combiners" in report:
        parts.append(combiners_section(report["combiners"]))
    plots = sorted(p.name for p in (folder / "plots").glob("*.svg"))
    if plots:
        parts.append("## Plots\n\n" + "\n".join(f"![{p[:-4]}](plots/{p})" for p in plots) + "\n")
    return parts


def write_card(bundle: pathlib.Path, report: dict[str, Any], destination: pathlib.Path) -> None:
    body = json.loads((bundle / "manifest.json").read_text())
    training = body["training"]
    sections = [
        INTRO.format(version=body["version"], created=body["created"][:10], licence=body["licence"]),
        size_section(body),
        LIMITS,
        TRAINING.format(
            audio=training["snippets"]["audio"], video=training["snippets"]["video"], steps=training["fusion_steps"],
            warm=training["warm_start_steps"], begun=begun(report, training), taught=taught(report, training),
            runs=averaged(training),
            data=training["data"], licences=training["licences"],
        ),
        standing_section(report["standing"]),
        scene_section(report["scenes"]),
        staged_section(report["staged"]),
        quiet_section(report["quiet"]),
        other_sections(report),
        *more_sections(report, training, destination.parent),
    ]  # fmt: skip
    destination.write_text("\n".join(sections))


def write_attribution(data: pathlib.Path, destination: pathlib.Path) -> None:
    """Credits of the media trained on that ask for credit, by data set and licence."""
    credits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for kind in ("audio", "images"):
        with (data / kind / "manifest.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["split"] == "train" and not row["licence"].startswith(("CC0", "PublicDomain", "NoKnown")):
                    credits[(row["dataset"], row["licence"])].add(row["attribution"])
    lines = [
        "# Credits\n\nMedia that the weights of `bundle/` were trained on and whose licence asks for credit. They were "
        "cut, scaled and re-encoded. Others are CC0 or public domain. Teachers: YAMNet, YOLOX-nano, NanoDet-m and "
        "EfficientNet-lite0, Apache-2.0; YAMNet's and EfficientNet-lite0's weights also initialise the encoders. "
        "ESC-50 and ESC-10 are by K. J. Piczak.\n"
    ]
    for (dataset, licence), names in sorted(credits.items()):
        # Names are as their sources gave them; one has the form of a link.
        plain = [name.replace("](", "]\\(") for name in sorted(names)]
        lines.append(f"## {dataset} ({licence})\n\n" + "\n".join(f"- {name}" for name in plain) + "\n")
    destination.write_text("\n".join(lines), encoding="utf-8")
