//! All connections: slots with generations, so that a late event of a closed one finds nothing, and the index by ports.

use std::collections::HashMap;

use super::packet::Key;

/// The most connections at once, in whatever state.
pub(super) const MAX_CONNECTIONS: usize = 1024;

/// Names one connection for as long as it is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// The listening socket's.
    pub(super) const LISTENER: Self = Self { index: u32::MAX, generation: 0 };
    /// The timer's.
    pub(super) const TIMER: Self = Self { index: u32::MAX, generation: 1 };

    /// As epoll carries it.
    pub(super) fn encode(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn decode(data: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = data.to_le_bytes();
        Self {
            index: u32::from_le_bytes([a, b, c, d]),
            generation: u32::from_le_bytes([e, f, g, h]),
        }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

/// The connections.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    by_key: HashMap<Key, Token>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_key: HashMap::new() }
    }
}

impl<T> Table<T> {
    pub(super) fn entries(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= MAX_CONNECTIONS
    }

    /// A token for a new connection, and the place to put it; `None` when the table is full.
    pub(super) fn reserve(&mut self) -> Option<Token> {
        if let Some(index) = self.free.pop() {
            let generation = self.slots.get(index as usize)?.generation;
            return Some(Token { index, generation });
        }
        if self.is_full() {
            return None;
        }
        let index = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot { generation: 0, entry: None });
        Some(Token { index, generation: 0 })
    }

    /// Puts an entry in the place of a token, instead of what was there.
    pub(super) fn put(&mut self, token: Token, entry: T) {
        if let Some(slot) = self.slot(token) {
            slot.entry = Some(entry);
        }
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut T> {
        self.slot(token)?.entry.as_mut()
    }

    /// Ends a token; its place is free for another.
    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slot(token)?;
        slot.generation = slot.generation.wrapping_add(1);
        let entry = slot.entry.take();
        self.free.push(token.index);
        entry
    }

    /// The connection between these ports.
    pub(super) fn find(&self, key: Key) -> Option<Token> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn bind(&mut self, key: Key, token: Token) {
        self.by_key.insert(key, token);
    }

    pub(super) fn unbind(&mut self, key: Key) {
        self.by_key.remove(&key);
    }

    fn slot(&mut self, token: Token) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut(token.index as usize)?;
        (slot.generation == token.generation).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_token_finds_nothing() {
        let mut table = Table::default();
        let first = table.reserve().unwrap();
        table.put(first, "first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.reserve().unwrap();
        table.put(second, "second");
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(Token::decode(second.encode())), Some(&mut "second"));
        assert_eq!(table.get(Token::LISTENER), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Table::<()>::default();
        let tokens: Vec<_> = std::iter::from_fn(|| table.reserve()).collect();
        assert_eq!(tokens.len(), MAX_CONNECTIONS);
        assert!(table.is_full());
        table.remove(tokens[7]);
        assert!(!table.is_full());
        assert!(table.reserve().is_some());
    }
}
