"""The label sets: what can be heard, what can be seen, and which visible things make which sounds.

The order of `AUDIBLE` and `VISIBLE` is the order of the model's outputs; it is written to the bundle's manifest and
never assumed by the runtime. Names are what a person reads in an event; phrases for sentences live in `text.py`.
"""

from __future__ import annotations

AUDIBLE: dict[str, str] = {
    "aircraft": "aircraft",
    "alarm": "alarm",
    "appliance": "appliance",
    "baby_cry": "baby crying",
    "background": "background",
    "bell": "bell",
    "bird": "bird",
    "breathing_snoring": "breathing or snoring",
    "car_horn": "car horn",
    "cat_meow": "cat meowing",
    "clapping": "clapping",
    "clock_tick": "clock ticking",
    "cough": "cough",
    "dog_bark": "dog barking",
    "door": "door",
    "engine": "engine",
    "explosion": "explosion",
    "farm_animal": "farm animal",
    "fire_crackle": "fire crackling",
    "footsteps": "footsteps",
    "glass_break": "breaking glass",
    "household": "household sound",
    "insect_frog": "insects or frogs",
    "knock": "knocking",
    "laughter": "laughter",
    "music": "music",
    "rain": "rain",
    "rooster": "rooster",
    "saw": "saw",
    "scream": "scream",
    "sea_waves": "sea waves",
    "siren": "siren",
    "sneeze": "sneeze",
    "speech": "speech",
    "thunder": "thunder",
    "train": "train",
    "typing_click": "typing or clicking",
    "water": "water",
    "wind": "wind",
    "phone_ring": "phone ringing",
}

VISIBLE: dict[str, str] = {
    "person": "person",
    "face": "face",
    "dog": "dog",
    "cat": "cat",
    "bird": "bird",
    "farm_animal": "farm animal",
    "wild_animal": "wild animal",
    "car": "car",
    "motorbike": "motorbike",
    "train": "train",
    "aircraft": "aircraft",
    "boat": "boat",
    "musical_instrument": "musical instrument",
    "screen": "screen",
}

# Visible things that can make a sound. An audible label that is absent has no visible source among the labels.
SOURCES: dict[str, list[str]] = {
    "aircraft": ["aircraft"],
    "baby_cry": ["person", "face"],
    "bird": ["bird"],
    "breathing_snoring": ["person", "face"],
    "car_horn": ["car"],
    "cat_meow": ["cat"],
    "clapping": ["person", "face"],
    "cough": ["person", "face"],
    "dog_bark": ["dog"],
    "engine": ["car", "motorbike"],
    "farm_animal": ["farm_animal"],
    "footsteps": ["person"],
    "laughter": ["person", "face"],
    "music": ["musical_instrument"],
    "rooster": ["farm_animal", "bird"],
    "scream": ["person", "face"],
    "siren": ["car"],
    "sneeze": ["person", "face"],
    "speech": ["person", "face"],
    "train": ["train"],
    "typing_click": ["screen"],
}

# Continuous sounds that set the mood of a snippet and are mentioned beside an event ("... over music").
AMBIENCE = ("music", "rain", "wind", "sea_waves", "water", "engine", "thunder", "insect_frog", "appliance")

AUDIBLE_IDS = tuple(AUDIBLE)
VISIBLE_IDS = tuple(VISIBLE)
AUDIBLE_INDEX = {name: i for i, name in enumerate(AUDIBLE_IDS)}
VISIBLE_INDEX = {name: i for i, name in enumerate(VISIBLE_IDS)}
