//! The manifest's `questions`: what can be asked about the label history, and what its answers are made of.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::manifest::Labels;

/// Most questions that a manifest may list.
const MAX_WORDS: usize = 4096;
/// Longest question, clause, phrase or reply in bytes.
const MAX_TEXT: usize = 128;

/// A closed grammar of questions, listed in full, and the pieces of their answers. They are answered from which labels were
/// over their best-F1 threshold in which snippets of the window; any other question goes to the text decoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Questions {
    /// What can be asked.
    pub forms: Vec<QuestionForm>,
    /// A clause for each audible label: `a dog barks`.
    pub hear: BTreeMap<String, String>,
    /// A noun phrase for each visible label: `a dog`.
    pub see: BTreeMap<String, String>,
    /// Audible labels that no answer names.
    pub unlisted: Vec<String>,
    /// Audible labels that answers to [`QuestionKind::Happened`] leave out as well: what goes on is no happening.
    pub not_happened: Vec<String>,
    /// Phrases for ages, with the age in seconds up to which each fits; ascending.
    pub ages: Vec<(String, f64)>,
    /// What is younger than this many seconds is now.
    pub now_seconds: f64,
    /// Most labels that one answer names.
    pub most: usize,
    /// Shapes of the answers.
    pub replies: Replies,
}

/// Questions of one meaning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionForm {
    /// What is asked.
    pub kind: QuestionKind,
    /// The label asked about, for the kinds that have one: audible for `heard` and `when`, visible for `seen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whole questions; see [`normalise`].
    pub words: Vec<String>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// Whether a label is heard, or was in the window.
    Heard,
    /// When a label was last heard.
    When,
    /// Whether a label is seen, or was in the window.
    Seen,
    /// What is heard now.
    Hear,
    /// What is seen now.
    See,
    /// What was heard in the window, the newest first.
    Happened,
    /// Something that cannot be known from sounds and sights; always answered with [`Replies::unknown`].
    Unknown,
}

/// Shapes of the answers. `{}` stands for a clause, a noun phrase or an age, once, where it is said to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replies {
    /// It is heard now; with the clause.
    pub heard: String,
    /// It is seen now; with the noun phrase.
    pub seen: String,
    /// It was, earlier in the window; with the age.
    pub earlier: String,
    /// It was not, in the whole window.
    pub no: String,
    /// [`QuestionKind::When`] without an answer.
    pub never: String,
    /// An age beyond the last one listed.
    pub older: String,
    /// An empty list.
    pub nothing: String,
    /// Between the items of a list, spaces included.
    pub and: String,
    /// It cannot be known.
    pub unknown: String,
}

/// A question as it is looked up: words of ASCII letters, digits and `'` in lower case with one space between them and
/// `,` `.` `?` attached to the left, as the tokenizer sees them; without the marks at its end.
#[must_use]
pub fn normalise(question: &str) -> String {
    let mut out = String::with_capacity(question.len());
    let mut in_word = false;
    for c in question.chars().flat_map(char::to_lowercase) {
        let of_word = c.is_ascii_alphanumeric() || c == '\'';
        if of_word {
            if !in_word && !out.is_empty() {
                out.push(' ');
            }
            out.push(c);
        } else if matches!(c, ',' | '.' | '?') {
            out.push(c);
        }
        in_word = of_word;
    }
    out.truncate(out.trim_end_matches([',', '.', '?']).len());
    out
}

impl Questions {
    /// Checks what the types cannot say. Returns the first thing that is wrong.
    pub(crate) fn validate(&self, labels: &Labels) -> Result<(), String> {
        let ids = |list: &[crate::Label]| list.iter().map(|l| l.id.clone()).collect::<BTreeSet<_>>();
        let (audible, visible) = (ids(&labels.audible), ids(&labels.visible));
        for (name, phrases, known) in [("hear", &self.hear, &audible), ("see", &self.see, &visible)] {
            if let Some(id) = phrases.keys().find(|id| !known.contains(*id)) {
                return Err(format!("questions.{name}: `{id}` is no label"));
            }
            if let Some(id) = known.iter().find(|id| !phrases.contains_key(*id)) {
                return Err(format!("questions.{name}: nothing for `{id}`"));
            }
            phrases.values().try_for_each(|text| check(&format!("questions.{name}"), text))?;
        }
        for (name, list) in [("unlisted", &self.unlisted), ("not_happened", &self.not_happened)] {
            if let Some(id) = list.iter().find(|id| !audible.contains(*id)) {
                return Err(format!("questions.{name}: `{id}` is no audible label"));
            }
        }
        self.validate_forms(&audible, &visible)?;
        self.validate_ages()?;
        self.replies.validate()
    }

    fn validate_forms(&self, audible: &BTreeSet<String>, visible: &BTreeSet<String>) -> Result<(), String> {
        let count: usize = self.forms.iter().map(|form| form.words.len()).sum();
        if count == 0 || count > MAX_WORDS {
            return Err(format!("questions.forms must hold 1 to {MAX_WORDS} questions"));
        }
        let mut seen = BTreeSet::new();
        for form in &self.forms {
            let known = match form.kind {
                QuestionKind::Heard | QuestionKind::When => Some(audible),
                QuestionKind::Seen => Some(visible),
                _ => None,
            };
            let fits = match (known, &form.label) {
                (Some(known), Some(id)) => known.contains(id),
                (None, None) => true,
                _ => false,
            };
            if !fits {
                let label = form.label.as_deref().unwrap_or("none");
                return Err(format!("questions.forms: {:?} with label `{label}`", form.kind));
            }
            if form.words.is_empty() {
                return Err(format!("questions.forms: {:?} without words", form.kind));
            }
            for words in &form.words {
                check("questions.forms", words)?;
                let key = normalise(words);
                if key.is_empty() || !seen.insert(key) {
                    return Err(format!("questions.forms: `{words}` is empty or there twice"));
                }
            }
        }
        Ok(())
    }

    fn validate_ages(&self) -> Result<(), String> {
        if self.ages.is_empty() || self.ages.len() > 64 {
            return Err("questions.ages must hold 1 to 64 phrases".into());
        }
        self.ages.iter().try_for_each(|(phrase, _)| check("questions.ages", phrase))?;
        let limits = || self.ages.iter().map(|(_, limit)| *limit);
        let ascending = limits().zip(limits().skip(1)).all(|(a, b)| a < b);
        if !ascending || !limits().all(|limit| limit.is_finite() && limit > 0.0) {
            return Err("questions.ages: limits must be positive and ascending".into());
        }
        if !(self.now_seconds.is_finite() && self.now_seconds > 0.0) {
            return Err("questions.now_seconds must be positive".into());
        }
        if !(1..=16).contains(&self.most) {
            return Err("questions.most must be 1 to 16".into());
        }
        Ok(())
    }
}

impl Replies {
    fn validate(&self) -> Result<(), String> {
        for (name, text, slots) in [
            ("heard", &self.heard, 1),
            ("seen", &self.seen, 1),
            ("earlier", &self.earlier, 1),
            ("no", &self.no, 0),
            ("never", &self.never, 0),
            ("older", &self.older, 0),
            ("nothing", &self.nothing, 0),
            ("and", &self.and, 0),
            ("unknown", &self.unknown, 0),
        ] {
            check(&format!("questions.replies.{name}"), text)?;
            if text.matches("{}").count() != slots {
                return Err(format!("questions.replies.{name} must hold `{{}}` {slots} times"));
            }
        }
        Ok(())
    }
}

fn check(place: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() || text.len() > MAX_TEXT {
        return Err(format!("{place}: `{text}` is empty or longer than {MAX_TEXT} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn labels() -> Labels {
        let label = |id: &str| {
            let point = json!({"on": 0.6, "off": 0.4});
            json!({"id": id, "name": id, "enabled": true, "experimental": false, "min_snippets": 1,
                   "thresholds": {"low_false_alarm": point, "best_f1": point}})
        };
        let labels = json!({"audible": [label("dog_bark"), label("rain")], "visible": [label("dog")]});
        serde_json::from_value(labels).unwrap()
    }

    fn table() -> Value {
        json!({
            "forms": [
                {"kind": "heard", "label": "dog_bark", "words": ["is a dog barking?", "do you hear a dog?"]},
                {"kind": "seen", "label": "dog", "words": ["is there a dog?"]},
                {"kind": "hear", "words": ["what do you hear?"]},
            ],
            "hear": {"dog_bark": "a dog barks", "rain": "rain falls"}, "see": {"dog": "a dog"},
            "unlisted": [], "not_happened": ["rain"], "ages": [["just now", 1.5], ["a while ago", 30]],
            "now_seconds": 1.5, "most": 3,
            "replies": {"heard": "yes, {}", "seen": "yes, {} is in view", "earlier": "not now, but {}", "no": "no",
                        "never": "i don't know", "older": "long ago", "nothing": "nothing", "and": " and ",
                        "unknown": "i don't know"},
        })
    }

    /// What is wrong after `change`.
    fn fault(change: impl FnOnce(&mut Value)) -> String {
        let mut value = table();
        change(&mut value);
        let made: Result<Questions, _> = serde_json::from_value(value);
        made.map_err(|e| e.to_string()).and_then(|q| q.validate(&labels())).unwrap_err()
    }

    #[test]
    fn a_table_is_taken_or_refused_with_its_place() {
        let whole: Questions = serde_json::from_value(table()).unwrap();
        whole.validate(&labels()).unwrap();
        assert!(fault(|q| q["forms"] = json!([])).contains("1 to 4096"));
        assert!(fault(|q| q["forms"][0]["words"] = json!([])).contains("without words"));
        assert!(fault(|q| q["forms"][0]["label"] = "dog".into()).contains("Heard with label `dog`"));
        assert!(fault(|q| q["forms"][1]["label"] = Value::Null).contains("Seen with label `none`"));
        assert!(fault(|q| q["forms"][2]["label"] = "dog".into()).contains("Hear with label `dog`"));
        assert!(fault(|q| q["forms"][0]["kind"] = "sung".into()).contains("sung"));
        assert!(fault(|q| q["forms"][1]["words"][0] = "Is a DOG barking".into()).contains("twice"));
        assert!(fault(|q| q["forms"][1]["words"][0] = "?".into()).contains("empty"));
        assert!(fault(|q| q["forms"][1]["words"][0] = "x".repeat(129).into()).contains("longer than 128"));
        assert!(fault(|q| q["hear"]["cat"] = "a cat".into()).contains("`cat` is no label"));
        assert!(fault(|q| q["see"] = json!({})).contains("nothing for `dog`"));
        assert!(fault(|q| q["see"]["dog"] = "".into()).contains("questions.see"));
        assert!(fault(|q| q["unlisted"] = json!(["dog"])).contains("no audible label"));
        assert!(fault(|q| q["ages"] = json!([])).contains("1 to 64"));
        assert!(fault(|q| q["ages"][1][1] = 1.into()).contains("ascending"));
        assert!(fault(|q| q["now_seconds"] = 0.into()).contains("now_seconds"));
        assert!(fault(|q| q["most"] = 0.into()).contains("most"));
        assert!(fault(|q| q["replies"]["heard"] = "yes".into()).contains("replies.heard"));
        assert!(fault(|q| q["replies"]["no"] = "{}".into()).contains("replies.no"));
        assert!(fault(|q| q["surprise"] = 1.into()).contains("unknown field"));
    }

    #[test]
    fn a_question_is_normalised_as_the_tokenizer_sees_it() {
        assert_eq!(normalise("  IS anyone\tspeaking ?"), "is anyone speaking");
        assert_eq!(normalise("is anyone speaking"), "is anyone speaking");
        assert_eq!(normalise("Don't, please!"), "don't, please");
        assert_eq!(normalise("dog—barks.now?"), "dog barks. now");
        assert_eq!(normalise("?!"), "");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,80}") {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once);
        }
    }
}
