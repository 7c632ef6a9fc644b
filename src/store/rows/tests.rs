//! What only the engines in a database promise: crashes, damage, trouble.
