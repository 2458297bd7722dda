//! Word pieces to and from text.

use std::collections::HashMap;

use crate::manifest::Text;

/// Longest-match word-piece tokenizer over the manifest's vocabulary.
///
/// Encoding lower-cases ASCII, splits at white space and before `,` `.` `?` `!`, and takes the longest piece at each
/// place; a continuation carries `##`. A word with no piece becomes the unknown token. Decoding joins words with one
/// space, attaches continuations and punctuation to the left, and drops special tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pieces: Vec<String>,
    ids: HashMap<String, u32>,
    unk: u32,
    longest: usize,
}

impl Tokenizer {
    /// From a validated manifest's text section.
    #[must_use]
    pub fn new(text: &Text) -> Self {
        let ids = (0u32..).zip(&text.vocab).map(|(id, piece)| (piece.clone(), id)).collect();
        let longest = text.vocab.iter().map(|p| p.trim_start_matches("##").len()).max().unwrap_or(0);
        Self { pieces: text.vocab.clone(), ids, unk: text.unk, longest }
    }

    /// Number of pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are no pieces at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Id of one exact piece, special tokens included.
    #[must_use]
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    /// Whether the piece is a special token, which never appears in text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.get(id as usize).is_none_or(|p| p.len() > 2 && p.starts_with('<') && p.ends_with('>'))
    }

    /// Whether the piece continues the word before it.
    #[must_use]
    pub fn is_continuation(&self, id: u32) -> bool {
        self.pieces.get(id as usize).is_some_and(|p| p.starts_with("##"))
    }

    /// Pieces of `text`, at most `limit`. Text cannot name special tokens.
    #[must_use]
    pub fn encode(&self, text: &str, limit: usize) -> Vec<u32> {
        let mut out = Vec::new();
        for word in text.split_whitespace() {
            if out.len() >= limit {
                break;
            }
            let word = word.to_ascii_lowercase();
            for part in split_punctuation(&word) {
                self.encode_word(part, &mut out);
            }
        }
        out.truncate(limit);
        out
    }

    fn encode_word(&self, word: &str, out: &mut Vec<u32>) {
        let start = out.len();
        let mut rest = word;
        while !rest.is_empty() {
            let continuation = rest.len() < word.len();
            let found = (1..=rest.len().min(self.longest))
                .rev()
                .filter(|&n| rest.is_char_boundary(n))
                .find_map(|n| {
                    let piece = if continuation { format!("##{}", &rest[..n]) } else { rest[..n].to_owned() };
                    self.id(&piece).filter(|&id| !self.is_special(id)).map(|id| (n, id))
                });
            let Some((n, id)) = found else {
                out.truncate(start);
                out.push(self.unk);
                return;
            };
            out.push(id);
            rest = &rest[n..];
        }
    }

    /// Text of `ids`.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for &id in ids.iter().filter(|&&id| !self.is_special(id)) {
            let piece = &self.pieces[id as usize];
            let attached =
                piece.strip_prefix("##").or_else(|| is_punctuation(piece).then_some(piece.as_str()));
            match attached {
                Some(tail) => text.push_str(tail),
                None => {
                    if !text.is_empty() {
                        text.push(' ');
                    }
                    text.push_str(piece);
                }
            }
        }
        text
    }
}

fn is_punctuation(piece: &str) -> bool {
    matches!(piece, "," | "." | "?" | "!")
}

/// Splits trailing and inner `,` `.` `?` `!` off as parts of their own.
fn split_punctuation(word: &str) -> impl Iterator<Item = &str> {
    word.split_inclusive([',', '.', '?', '!']).flat_map(|part| {
        let cut = part.len() - usize::from(part.ends_with([',', '.', '?', '!']));
        let (head, tail) = part.split_at(cut);
        [head, tail].into_iter().filter(|s| !s.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Prompts;

    fn tokenizer() -> Tokenizer {
        let vocab = [
            "<pad>",
            "<bos>",
            "<eos>",
            "<unk>",
            "<hear:dog_bark>",
            "a",
            "dog",
            "bark",
            "##s",
            "##ing",
            ",",
            "off",
            "camera",
        ];
        Tokenizer::new(&Text {
            vocab: vocab.map(str::to_owned).to_vec(),
            pad: 0,
            bos: 1,
            eos: 2,
            unk: 3,
            max_output: 8,
            max_question: 8,
            max_known: 0,
            absent: None,
            prompts: Prompts { event: vec![], caption: vec![], ask: vec![] },
        })
    }

    #[test]
    fn round_trips_words_continuations_and_commas() {
        let t = tokenizer();
        let ids = t.encode("A dog  barks, off camera", 16);
        assert_eq!(ids, [5, 6, 7, 8, 10, 11, 12]);
        assert_eq!(t.decode(&ids), "a dog barks, off camera");
    }

    #[test]
    fn unknown_words_and_special_tokens_in_text_become_unk() {
        let t = tokenizer();
        assert_eq!(t.encode("xyz dog <eos> <hear:dog_bark>", 16), [3, 6, 3, 3]);
        assert_eq!(t.decode(&[1, 6, 2, 3, 99]), "dog");
    }

    #[test]
    fn the_limit_holds() {
        assert_eq!(tokenizer().encode("barking dog dog", 1).len(), 1);
    }

    proptest! {
        #[test]
        fn never_panics_and_never_yields_foreign_ids(text in "\\PC{0,80}") {
            let t = tokenizer();
            let ids = t.encode(&text, 32);
            prop_assert!(ids.len() <= 32);
            prop_assert!(ids.iter().all(|&id| (id as usize) < t.len()));
            let _ = t.decode(&ids);
        }
    }
}
