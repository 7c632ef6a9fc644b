//! What lasts. One trait, several engines, the same promises.
