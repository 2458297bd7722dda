//! The context text of events' sentences and captions: what the scores of the newest snippet claim.
//!
//! The decoder puts into words what the labels say, so that a sentence and the scores beside it agree; from the latents it
//! learns where they err. See `models/train/girasol_train/text.py`, which says the same of training.

use girasol_model::{Label, Manifest, Tokenizer};

/// Labels of one sense: token of the label, where it has one, and its best-F1 threshold.
type Claims = Vec<(Option<u32>, f32)>;

/// Tokens of the context text. All memory is taken at load.
pub(super) struct Known {
    hear: Claims,
    see: Claims,
    no_sound: Vec<u32>,
    no_picture: Vec<u32>,
    /// Most labels of a sense.
    most: usize,
    tokens: Vec<u32>,
}

impl Known {
    pub(super) fn new(manifest: &Manifest, tokenizer: &Tokenizer) -> Self {
        let claims = |labels: &[Label], sense: &str| {
            let token = |label: &Label| tokenizer.id(&format!("<{sense}:{}>", label.id));
            labels.iter().map(|label| (token(label), label.thresholds.best_f1.on)).collect()
        };
        let (text, labels) = (&manifest.text, &manifest.labels);
        let absent = |sense: fn(&girasol_model::Absent) -> &String| {
            let said = text.absent.as_ref().map(sense);
            said.map_or_else(Vec::new, |said| tokenizer.encode(said, girasol_model::Absent::MOST_TOKENS))
        };
        Self {
            hear: claims(&labels.audible, "hear"),
            see: claims(&labels.visible, "see"),
            no_sound: absent(|absent| &absent.sound),
            no_picture: absent(|absent| &absent.picture),
            most: text.max_known,
            tokens: Vec::with_capacity(2 * (text.max_known + girasol_model::Absent::MOST_TOKENS)),
        }
    }

    /// Takes the newest snippet's scores; `heard`, `seen`: whether there was sound, and a picture.
    pub(super) fn put(&mut self, audible: &[f32], visible: &[f32], heard: bool, seen: bool) {
        self.tokens.clear();
        for (claims, scores, present) in [(&self.hear, audible, heard), (&self.see, visible, seen)] {
            let claimed = claims.iter().zip(scores).filter(|((_, on), score)| present && *score >= on);
            self.tokens.extend(claimed.filter_map(|((token, _), _)| *token).take(self.most));
        }
        for (absent, present) in [(&self.no_sound, heard), (&self.no_picture, seen)] {
            if !present {
                self.tokens.extend(absent);
            }
        }
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn clear(&mut self) {
        self.tokens.clear();
    }
}

#[cfg(test)]
mod tests {
    use girasol_model::Bundle;

    use super::*;

    #[test]
    fn claims_come_in_the_order_of_the_labels_and_an_absent_sense_is_said() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundle");
        let mut manifest = Bundle::open(dir, env!("CARGO_PKG_VERSION")).unwrap().manifest().clone();
        let tokenizer = Tokenizer::new(&manifest.text);
        let labels = &mut manifest.labels;
        labels.audible.iter_mut().chain(&mut labels.visible).for_each(|l| l.thresholds.best_f1.on = 0.5);
        let scores = |list: &[Label], on: &[&str]| -> Vec<f32> {
            list.iter().map(|l| if on.contains(&l.id.as_str()) { 0.5 } else { 0.4 }).collect()
        };
        let audible = scores(&manifest.labels.audible, &["speech", "dog_bark"]);
        let visible = scores(&manifest.labels.visible, &["dog"]);
        let id = |piece: &str| tokenizer.id(piece).unwrap();
        let said = |heard, seen| {
            let mut known = Known::new(&manifest, &tokenizer);
            known.put(&audible, &visible, heard, seen);
            known.tokens().to_vec()
        };
        let (bark, speech, dog) = (id("<hear:dog_bark>"), id("<hear:speech>"), id("<see:dog>"));
        assert_eq!(said(true, true), [bark, speech, dog]);
        assert_eq!(said(true, false), [bark, speech, id("no"), id("camera")]);
        assert_eq!(said(false, true), [dog, id("no"), id("sound")]);
        let everything: Vec<f32> = vec![0.9; manifest.labels.audible.len()];
        let mut known = Known::new(&manifest, &tokenizer);
        known.put(&everything, &visible, true, true);
        assert_eq!(known.tokens().len(), manifest.text.max_known + 1);
    }
}
