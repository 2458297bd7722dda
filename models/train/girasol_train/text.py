"""Vocabulary, tokenizer and the sentences the decoder is taught.

Sequence of the decoder (the runtime does exactly this):

    [<context> known...]? prompt... <bos> written... <eos>

Prompt tokens are run first, their logits ignored; `<bos>` ends the prompt, and the logits after it choose the first
written token (greedily). Writing stops at `<eos>`, after `MAX_OUTPUT` tokens or at the decoder's last position.
Prompts: `<event> <hear:ID>` or `<event> <see:ID>`; `<caption>`; `<ask>` followed by the question's pieces (at most
`MAX_QUESTION`, the first ones kept). Event and caption have the context text before them: what the scores of the
newest snippet claim (`<hear:ID>`... `<see:ID>`..., at most `MAX_KNOWN` of each, in the order of the labels), and which
sense was not there.

Encoding a text: lower-case, keep `a-z 0-9 ' , . ?`, everything else separates words; `, . ?` are words of their own.
A word is the longest vocabulary entry that it starts with, then the longest `##` entries that continue it; a word
that cannot be spelled so is `<unk>`. Decoding: pieces `##x` are glued to the left, so are `, . ?`, other words are
joined by single spaces; special tokens write nothing.
"""

from __future__ import annotations

import functools
import itertools
import re
import string

from .labels import AMBIENCE, AUDIBLE_IDS, SOURCES, VISIBLE_IDS

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<event>", "<caption>", "<ask>", "<context>")
PROMPTS = {
    "event": ["<context>", "{known}", "<event>", "{label}"],
    "caption": ["<context>", "{known}", "<caption>"],
    "ask": ["<ask>", "{question}"],
}
MAX_OUTPUT = 24
MAX_QUESTION = 20
MAX_KNOWN = 6
ABSENT = {"sound": "no sound", "picture": "no camera"}
ATTACHED = (",", ".", "?")
WORD = re.compile(r"[a-z0-9']+|[,.?]")

# What is heard, as a clause: "a dog barks".
HEARD: dict[str, str] = {
    "aircraft": "an aircraft passes",
    "alarm": "an alarm sounds",
    "appliance": "an appliance runs",
    "baby_cry": "a baby cries",
    "background": "background noise",
    "bell": "a bell rings",
    "bird": "a bird calls",
    "breathing_snoring": "someone breathes heavily",
    "car_horn": "a car horn blows",
    "cat_meow": "a cat meows",
    "clapping": "someone claps",
    "clock_tick": "a clock ticks",
    "cough": "someone coughs",
    "dog_bark": "a dog barks",
    "door": "a door opens or closes",
    "engine": "an engine runs",
    "explosion": "something explodes",
    "farm_animal": "a farm animal calls",
    "fire_crackle": "a fire crackles",
    "footsteps": "someone walks",
    "glass_break": "glass breaks",
    "household": "a household sound",
    "insect_frog": "insects or frogs call",
    "knock": "someone knocks",
    "laughter": "someone laughs",
    "music": "music plays",
    "rain": "rain falls",
    "rooster": "a rooster crows",
    "saw": "a saw runs",
    "scream": "someone screams",
    "sea_waves": "waves break",
    "siren": "a siren wails",
    "sneeze": "someone sneezes",
    "speech": "someone speaks",
    "thunder": "thunder rolls",
    "train": "a train passes",
    "typing_click": "someone types or clicks",
    "water": "water runs",
    "wind": "wind blows",
    "phone_ring": "a phone rings",
}

# What is seen, as a noun phrase: "a cat".
SEEN: dict[str, str] = {
    "person": "a person",
    "face": "a face",
    "dog": "a dog",
    "cat": "a cat",
    "bird": "a bird",
    "farm_animal": "a farm animal",
    "wild_animal": "a wild animal",
    "car": "a car",
    "motorbike": "a motorbike",
    "train": "a train",
    "aircraft": "an aircraft",
    "boat": "a boat",
    "musical_instrument": "a musical instrument",
    "screen": "a screen",
}

# "over ..." for continuous sounds beside an event.
OVER: dict[str, str] = {
    "music": "music",
    "rain": "rain",
    "wind": "wind",
    "sea_waves": "waves",
    "water": "running water",
    "engine": "an engine",
    "thunder": "thunder",
    "insect_frog": "insects",
    "appliance": "an appliance",
}

# Subject of a question about a sound: "is {ASKED}?" -> "is anyone speaking?".
ASKED: dict[str, str] = {
    "alarm": "an alarm sounding",
    "baby_cry": "a baby crying",
    "bell": "a bell ringing",
    "cat_meow": "a cat meowing",
    "cough": "anyone coughing",
    "dog_bark": "a dog barking",
    "footsteps": "anyone walking",
    "glass_break": "glass breaking",
    "knock": "anyone knocking",
    "laughter": "anyone laughing",
    "music": "music playing",
    "phone_ring": "a phone ringing",
    "rain": "rain falling",
    "scream": "anyone screaming",
    "siren": "a siren wailing",
    "speech": "anyone speaking",
    "water": "water running",
}

# Words that people may ask with although no sentence uses them; cheaper as whole pieces than letter by letter.
EXTRA_WORDS = (
    "the it that this i you me we they he she my your what when where who how why which was were did do does has",
    "have had can could will there here now ago last minute second seconds minutes just recently today in on at",
    "of for to from with and or not any anything anybody anyone somebody nobody somewhere hear heard see seen",
    "hears sees sound sounds noise quiet silent loud barking speaking talking ringing crying meowing coughing",
    "knocking laughing playing falling walking breaking wailing running screaming moving move room house home",
    "door window camera view light dark yes no maybe know don't unknown happened happening happens many much",
    "people child children man woman animal animals alarm phone doorbell bell glass music baby dog cat bird car",
    "truck bike train plane boat instrument screen tv kitchen water fire smoke rain wind thunder off still again",
    "only one two three four five six seven eight nine ten twenty thirty forty fifty about less more than half",
    "between few moment present empty over under near far before after while silently visible audible",
    "bark speak ring meow cry cough knock laugh walk play fall break sneeze scream clap run",
)
SUFFIXES = ("s", "es", "ed", "ing", "er", "ers", "ly", "'s", "ion", "able", "ment", "ness", "est", "y", "al", "en",
            "le", "in", "ar", "on", "th", "ch", "ck", "st")  # fmt: skip
AGES = (("just now", 1.5), ("a few seconds ago", 7.0), ("about ten seconds ago", 15.0),
        ("about twenty seconds ago", 25.0), ("half a minute ago", 40.0), ("about a minute ago", 70.0))  # fmt: skip


def hear(label: str) -> str:
    return f"<hear:{label}>"


def see(label: str) -> str:
    return f"<see:{label}>"


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """All tokens, in the order of the decoder's logits."""
    words: list[str] = []
    for text in itertools.chain(HEARD.values(), SEEN.values(), OVER.values(), ASKED.values(), FIXED_WORDS, EXTRA_WORDS):
        words += WORD.findall(text)
    characters = string.ascii_lowercase + string.digits + "'"
    tokens = [*SPECIAL, *map(hear, AUDIBLE_IDS), *map(see, VISIBLE_IDS), *ATTACHED, *words, *characters]
    tokens += ["##" + piece for piece in (*SUFFIXES, *characters)]
    return tuple(dict.fromkeys(tokens))


@functools.cache
def token_ids() -> dict[str, int]:
    return {token: i for i, token in enumerate(vocabulary())}


def _pieces(word: str) -> list[int]:
    ids, known, start = [], token_ids(), 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in known), None)
        if end is None:
            return [UNK]
        ids.append(known[prefix + word[start:end]])
        start = end
    return ids


def encode(text: str) -> list[int]:
    return [i for word in WORD.findall(text.lower()) for i in _pieces(word)]


def decode(ids: list[int]) -> str:
    out = ""
    for token in (vocabulary()[i] for i in ids):
        if token.startswith("<"):
            continue
        if token.startswith("##"):
            out += token[2:]
        elif token in ATTACHED or not out:
            out += token
        else:
            out += " " + token
    return out


def known_ids(heard: set[str], seen: set[str], sound: bool = True, picture: bool = True) -> list[int]:
    """The context text: what is claimed of a snippet."""
    names = [hear(a) for a in AUDIBLE_IDS if a in heard and sound][:MAX_KNOWN]
    names += [see(v) for v in VISIBLE_IDS if v in seen and picture][:MAX_KNOWN]
    absent = [*([] if sound else encode(ABSENT["sound"])), *([] if picture else encode(ABSENT["picture"]))]
    return [*(token_ids()[name] for name in names), *absent]


def prompt_ids(kind: str, label: str = "", question: str = "", known: list[int] | None = None) -> list[int]:
    """The prompt of `kind` with its slots filled, `<bos>` included; without `known` there is no context."""
    ids: list[int] = []
    for part in PROMPTS[kind]:
        if part == "{question}":
            ids += encode(question)[:MAX_QUESTION]
        elif part == "{known}":
            ids += known or []
        elif part != "<context>" or known is not None:
            ids.append(token_ids()[label if part == "{label}" else part])
    return [*ids, BOS]


def _beside(heard: set[str], seen: set[str], subject: str, in_view: bool | None) -> str:
    """What else to mention beside an event: a person in view first, else a continuous sound."""
    makers = SOURCES.get(subject, []) if in_view else []
    if seen & {"person", "face"} and subject not in ("person", "face") and "person" not in makers:
        return " while a person is in view"
    over = next((a for a in AMBIENCE if a in heard and a != subject), None)
    return f" over {OVER[over]}" if over else ""


def event_sentence(label: str, heard: set[str], seen: set[str], in_view: bool | None) -> str:
    """Sentence for an audible label that is heard; `in_view`: its source is visible, None without a picture."""
    place = "" if in_view is None or label not in SOURCES else ", in view" if in_view else ", off camera"
    return HEARD[label] + place + _beside(heard, seen, label, in_view)


def sight_sentence(label: str, heard: set[str], seen: set[str]) -> str:
    """Sentence for a visible label that is seen."""
    sounds = [a for a, makers in SOURCES.items() if label in makers and a in heard]
    if sounds:
        return f"{SEEN[label]} is in view, {HEARD[sounds[0]]}"
    return f"{SEEN[label]} is in view, silent" + _beside(heard, seen, label, True)


def caption(heard: set[str], seen: set[str], in_view: set[str], picture: bool = True) -> str:
    """One sentence for a whole snippet; the loudest story first: events, then sights, then ambience."""
    events = [a for a in AUDIBLE_IDS if a in heard and a not in AMBIENCE and a != "background"]
    ambience = [a for a in AMBIENCE if a in heard]
    sights = [v for v in VISIBLE_IDS if v in seen and not (v == "face" and "person" in seen)]
    if events:
        first = event_sentence(events[0], heard, seen, events[0] in in_view if picture else None)
        return first if len(events) == 1 else f"{HEARD[events[1]]} and {first}"
    if sights:
        return sight_sentence(sights[0], heard, seen)
    if ambience:
        return HEARD[ambience[0]]
    return "nothing happens"


# What an answer looks like; `{}` is the clause, the thing in view or the age. They go to the manifest as they are.
REPLIES: dict[str, str] = {
    "heard": "yes, {}",
    "seen": "yes, {} is in view",
    "earlier": "not now, but {}",
    "no": "no, not in the last minute",
    "never": "i don't know, not in the last minute",
    "older": "more than a minute ago",
    "nothing": "nothing",
    "and": " and ",
    "unknown": "i don't know",
}
NOW_SECONDS = 1.5  # younger than this is "now"
MOST = 3  # labels named in one answer


def age_phrase(seconds: float) -> str:
    return next((phrase for phrase, limit in AGES if seconds <= limit), REPLIES["older"])


def answer_heard(label: str, age: float | None) -> str:
    """`age`: seconds since the label was last heard, None when not within the window."""
    return _answer_whether(REPLIES["heard"].format(HEARD[label]), age)


def answer_when(age: float | None) -> str:
    return REPLIES["never"] if age is None else age_phrase(age)


def answer_seen(label: str, age: float | None) -> str:
    return _answer_whether(REPLIES["seen"].format(SEEN[label]), age)


def _answer_whether(yes: str, age: float | None) -> str:
    if age is None:
        return REPLIES["no"]
    return yes if age < NOW_SECONDS else REPLIES["earlier"].format(age_phrase(age))


def answer_list(names: list[str]) -> str:
    """Answer to "what do you hear / see?" from clauses or noun phrases, at most `MOST` of them."""
    return REPLIES["and"].join(names[:MOST]) if names else REPLIES["nothing"]


QUESTIONS: dict[str, tuple[str, ...]] = {
    "heard": ("is {asked}?", "do you hear {asked}?", "was {asked} just now?", "is {asked} now?"),
    "when": ("when was {asked}?", "when did you last hear {asked}?"),
    "seen": ("is {seen} in view?", "is there {seen}?", "do you see {seen}?", "can you see {seen} now?"),
    "anyone": ("is anyone there?", "is anybody here?", "is someone in view?", "is there anyone?"),
    "hear": ("what do you hear?", "what was that sound?", "what can you hear now?", "what is that noise?"),
    "see": ("what do you see?", "what is in view?", "what can you see now?"),
    "happened": ("what happened?", "what happened in the last minute?", "what just happened?", "what is happening?"),
    "unknown": (
        "who is it?", "what time is it?", "why?", "how are you?", "what is your name?", "how many people are there?",
        "is it cold?", "where is my phone?", "what did he say?", "is the window open?", "will it rain today?",
    ),
}  # fmt: skip
FIXED_WORDS = (
    "in view off camera while is over silent and nothing happens no , not the last minute yes but now more than ago",
    "just i don't know a an someone is", *(phrase for phrase, _ in AGES),
)  # fmt: skip
