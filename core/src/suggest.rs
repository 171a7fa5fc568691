//! "Did you mean …": the one of a few known words that a mistyped one is closest to.

/// Longer words are compared with nothing: the time for it grows with both. Bytes.
const LONGEST: usize = 256;

/// The candidate that differs least from `word`, if it differs little: letter case counts nothing, up to a third of the letters
/// may be wrong.
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .filter(|c| c.len() <= LONGEST)
        .map(|c| (distance(&word, &c.to_lowercase()), c))
        .min_by_key(|(d, _)| *d)
        .filter(|(d, c)| *d <= (c.chars().count() / 3).clamp(1, 5))
        .map(|(_, c)| c)
}

/// Levenshtein distance in characters: one row of the table at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, cb) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*slot + 1);
            diagonal = std::mem::replace(slot, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_levenshteins() {
        for (a, b, d) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["logFolder", "eventFolder", "egressBackstop"];
        assert_eq!(closest("logfolder", known), Some("logFolder"));
        assert_eq!(closest("egressBackStop", known), Some("egressBackstop"));
        assert_eq!(closest("evntFoldr", known), Some("eventFolder"));
        assert_eq!(closest("colour", known), None);
    }
}
