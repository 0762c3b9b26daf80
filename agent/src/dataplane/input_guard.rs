//! The input guard: which packets of pods reach the node itself.
//!
//! Keeps one nftables table of our own equal to what is wanted. Does not know why a pod may reach the node. No step
//! leaves a moment in which more is delivered than before and after it: each write is one transaction.
//!
//! Works since Linux 5.10; needs nf_tables with the family inet, `ct`, `objref`, and named counters (4.10).

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use super::nft::socket::NftSocket;
use super::nft::{self, Attributes, DUMP, MessageKind, NftError};
use drops::DropTally;
pub use drops::{DropCount, Drops};
use policy::model::input_guard::InputRules;
use table::Contents;

mod drops;
mod table;

/// The table's name, for [`nft::watch::NftWatch::open`]; its family is inet.
pub const TABLE: &str = table::TABLE;
/// How often a listing is read that others change meanwhile.
const ATTEMPTS: u32 = 5;
/// The first pause before a set is read again, during which the kernel resizes its hash table.
const RESIZE: Duration = Duration::from_millis(10);

/// What the kernel holds, as last written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Written {
    /// What an earlier agent or another process may have left.
    #[default]
    Unknown,
    /// What a failed write may have left.
    Failed,
    Absent,
    Table(Contents),
}

/// The guard's table, and what was last written to it.
#[derive(Default)]
pub struct InputGuard {
    socket: Option<NftSocket>,
    written: Written,
    /// In the order of [`table::COUNTERS`].
    tallies: [DropTally; 2],
}

impl InputGuard {
    /// A guard that has not written anything. It opens its socket with the first request, in the network namespace of
    /// the thread that makes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the kernel's table equal to `wanted`, in one transaction. Writes the elements that differ, or the whole table
    /// if it is not ours or the last write failed. Empty rules need no table.
    ///
    /// # Errors
    /// Those of [`NftSocket::commit`]. The kernel's table is then the former one, or a part is unknown; the next call
    /// replaces it.
    pub fn sync(&mut self, wanted: &InputRules) -> Result<(), NftError> {
        if *wanted == InputRules::default() {
            return if self.written == Written::Absent { Ok(()) } else { self.remove().map(drop) };
        }
        let contents = table::contents(wanted);
        match std::mem::replace(&mut self.written, Written::Failed) {
            Written::Table(old) => self.socket()?.commit(&table::change(&old, &contents))?,
            Written::Unknown => match self.adopt()? {
                Some(old) => self.socket()?.commit(&table::change(&old, &contents))?,
                None => self.replace(&contents)?,
            },
            Written::Failed | Written::Absent => self.replace(&contents)?,
        }
        self.written = Written::Table(contents);
        Ok(())
    }

    /// Reads the table back, with its chains, rules and elements. Returns whether it is as last written. Otherwise
    /// forgets what was written, so that the next [`Self::sync`] replaces it.
    ///
    /// # Errors
    /// Those of [`NftSocket::read`]. What was written stays remembered then.
    pub fn is_intact(&mut self) -> Result<bool, NftError> {
        let written = std::mem::take(&mut self.written);
        let intact = self.holds(&written);
        if written == Written::Failed || !matches!(intact, Ok(false)) {
            self.written = written;
        }
        intact
    }

    fn holds(&mut self, written: &Written) -> Result<bool, NftError> {
        match written {
            Written::Unknown | Written::Failed => Ok(false),
            Written::Absent => Ok(!self.exists()?),
            Written::Table(contents) => Ok(self.has_frame()? && self.has_rules()? && self.has_elements(contents)?),
        }
    }

    /// What was dropped since the table was made, including former tables that this guard has seen. Never decreases.
    ///
    /// # Errors
    /// Those of [`NftSocket::read`]. An absent table is none.
    pub fn drops(&mut self) -> Result<Drops, NftError> {
        for (at, name) in table::COUNTERS.into_iter().enumerate() {
            let now = self.read_counter(name)?;
            self.tallies[at].see(now);
        }
        let [node, tunnel] = self.tallies.map(|tally| tally.total());
        Ok(Drops { node, tunnel })
    }

    /// Whether the table exists. A kernel without nf_tables has none.
    ///
    /// # Errors
    /// Those of [`NftSocket::read`].
    pub fn exists(&mut self) -> Result<bool, NftError> {
        match self.read_table() {
            Ok(found) => Ok(found.is_some()),
            Err(NftError::NoNfTables(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the table. Returns whether there was one; a kernel without nf_tables has none.
    ///
    /// # Errors
    /// Those of [`NftSocket::commit`].
    pub fn remove(&mut self) -> Result<bool, NftError> {
        self.written = Written::Unknown;
        // Packets that are dropped between this and the removal are not counted. A missing count stops no write.
        _ = self.drops();
        let delete = table::delete();
        let removed = match self.socket().and_then(|socket| socket.commit(&[delete])) {
            Ok(()) => true,
            Err(NftError::NoNfTables(_)) => false,
            Err(error) if error.is_absent() => false,
            Err(error) => return Err(error),
        };
        self.retire();
        self.written = Written::Absent;
        Ok(removed)
    }

    /// What the kernel's table holds, if its chains, sets and rules are ours. Its counters go on then.
    fn adopt(&mut self) -> Result<Option<Contents>, NftError> {
        if !(self.has_frame()? && self.has_rules()?) {
            return Ok(None);
        }
        let mut contents = Contents::new();
        for name in table::sets() {
            let Some(keys) = self.read_keys(name)? else { return Ok(None) };
            contents.insert(name, keys);
        }
        Ok(Some(contents))
    }

    fn replace(&mut self, contents: &Contents) -> Result<(), NftError> {
        _ = self.drops();
        self.socket()?.commit(&table::replace(contents))?;
        self.retire();
        Ok(())
    }

    fn retire(&mut self) {
        self.tallies.iter_mut().for_each(DropTally::retire);
    }

    fn socket(&mut self) -> Result<&mut NftSocket, NftError> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(NftSocket::open()?)),
        }
    }

    /// Reads objects; an absent one is an empty list.
    fn read(&mut self, kind: MessageKind, flags: u16, what: &str, body: Attributes) -> Result<Vec<Vec<u8>>, NftError> {
        let message = table::request(kind, flags, &format!("read {what}"), body);
        let socket = self.socket()?;
        let mut attempts = (0..ATTEMPTS).map(|_| socket.read(&message));
        let torn = |answer: &Result<_, NftError>| matches!(answer, Err(error) if error.is_interrupted());
        let answer = attempts.find(|answer| !torn(answer));
        match answer.unwrap_or_else(|| socket.read(&message)) {
            Err(error) if error.is_absent() => Ok(Vec::new()),
            answer => answer,
        }
    }

    fn read_table(&mut self) -> Result<Option<Vec<u8>>, NftError> {
        Ok(self.read(MessageKind::GetTable, 0, "the table", table::in_table())?.pop())
    }

    /// Whether the table, its chains and its sets are ours.
    fn has_frame(&mut self) -> Result<bool, NftError> {
        let mut same = self.read_table()?.is_some_and(|found| nft::covers(&found, &table::table()));
        for (name, chain) in table::chains() {
            let found = self.read(MessageKind::GetChain, 0, "a chain", table::in_table().text(3, name))?;
            same &= found.first().is_some_and(|found| nft::covers(found, &chain));
        }
        for (name, set) in table::set_specs() {
            let found = self.read(MessageKind::GetSet, 0, "a set", table::in_table().text(2, name))?;
            same &= found.first().is_some_and(|found| nft::covers(found, &set));
        }
        Ok(same)
    }

    /// Whether each chain has our rules and no other.
    fn has_rules(&mut self) -> Result<bool, NftError> {
        let mut same = true;
        for (chain, _) in table::chains() {
            let found = self.read(MessageKind::GetRule, DUMP, "rules", table::in_table().text(2, chain))?;
            let wanted = table::rules(chain);
            same &= found.len() == wanted.len();
            same &= found.iter().zip(&wanted).all(|(found, wanted)| {
                nft::find(found, 4).is_some_and(|expressions| nft::list_covers(expressions, wanted))
            });
        }
        Ok(same)
    }

    /// Whether each set has these elements and no other.
    fn has_elements(&mut self, contents: &Contents) -> Result<bool, NftError> {
        for (name, wanted) in contents {
            if !self.has_keys(name, wanted)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The keys of a set; `None` if one of its elements is not ours.
    fn read_keys(&mut self, set: &str) -> Result<Option<BTreeSet<Vec<u8>>>, NftError> {
        let found = self.read(MessageKind::GetSetElem, DUMP, "elements", table::in_table().text(2, set))?;
        Ok(found.iter().flat_map(|part| element_keys(part)).collect())
    }

    /// Whether a set has these keys and no other. A listing may miss keys while the kernel resizes its hash table,
    /// which it does for a moment after a large write, so a missing key is looked for again.
    fn has_keys(&mut self, set: &str, wanted: &BTreeSet<Vec<u8>>) -> Result<bool, NftError> {
        for attempt in 0..ATTEMPTS {
            match self.read_keys(set)? {
                Some(keys) if keys == *wanted => return Ok(true),
                Some(keys) if keys.is_subset(wanted) => thread::sleep(RESIZE * attempt),
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Reads a counter; an absent one is zero.
    fn read_counter(&mut self, name: &str) -> Result<DropCount, NftError> {
        let body = table::in_table().text(2, name).number(3, nft::COUNTER);
        let found = self.read(MessageKind::GetObj, 0, "a counter", body)?;
        let data = found.first().and_then(|object| nft::find(object, 4)).unwrap_or_default();
        let number = |kind| nft::find(data, kind).and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?)));
        Ok(DropCount { bytes: number(1).unwrap_or(0), packets: number(2).unwrap_or(0) })
    }
}

/// The keys of one part of a listing; `None` for an element that is not ours, such as one that expires.
fn element_keys(part: &[u8]) -> impl Iterator<Item = Option<Vec<u8>>> {
    /// Flags, timeout, and expiration of an element.
    const FOREIGN: [u16; 3] = [3, 4, 5];
    nft::attributes(nft::find(part, 3).unwrap_or_default()).map(|(_, element)| {
        let foreign = nft::attributes(element).any(|(kind, _)| FOREIGN.contains(&kind));
        let key = nft::find(element, 1).and_then(|key| nft::find(key, 1));
        key.filter(|_| !foreign).map(<[u8]>::to_vec)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_that_expires_is_not_ours() {
        let key = Attributes::new().nest(1, &Attributes::new().bytes(1, &[1, 2, 3, 4]));
        let expiring = key.clone().bytes(4, &[0; 8]);
        let keys = |element: &Attributes| {
            let part = table::in_table().list(3, [element]);
            element_keys(part.as_bytes()).collect::<Vec<_>>()
        };
        assert_eq!(keys(&key), [Some(vec![1, 2, 3, 4])]);
        assert_eq!(keys(&expiring), [None]);
        assert_eq!(keys(&Attributes::new()), [None]);
    }
}
