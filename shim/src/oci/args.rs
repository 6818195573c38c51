//! Reads command lines as runc's parser does, which is Go's: `-name` and `--name` are the same, a value follows as the
//! next word or after `=`, a switch may have `=false`, and `--` ends the flags.

/// A flag that a verb takes.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<&'static str>,
    /// It takes a value.
    pub(super) value: bool,
    pub(super) help: &'static str,
}

/// A switch.
pub(super) const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, value: false, help }
}

/// A flag with a value.
pub(super) const fn value(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, value: true, help }
}

impl Flag {
    pub(super) const fn short(self, short: &'static str) -> Self {
        Self { short: Some(short), ..self }
    }
}

/// Where flags may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Before the first argument only: what follows is another command's.
    First,
    /// Anywhere.
    Mixed,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    flags: Vec<(&'static str, String)>,
    pub(super) arguments: Vec<String>,
}

/// Reads flags of these lists, and the arguments between or behind them.
///
/// # Errors
/// A line for the user, runc's.
pub(super) fn parse(
    words: &mut dyn Iterator<Item = String>,
    lists: &[&'static [Flag]],
    order: Order,
) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            parsed.arguments.push(word);
            if order == Order::First {
                break;
            }
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.is_empty() {
            break;
        }
        let (name, given) = match flag.split_once('=') {
            Some((name, given)) => (name, Some(given)),
            None => (flag, None),
        };
        let known = lists.iter().copied().flatten();
        let known = known.into_iter().find(|known| known.name == name || known.short == Some(name));
        let Some(known) = known else {
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match (known.value, given) {
            (false, None) => "true".to_owned(),
            (_, Some(given)) => given.to_owned(),
            (true, None) => {
                words.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?
            }
        };
        if !known.value && boolean(&value).is_none() {
            let why = "parse error";
            return Err(format!("invalid boolean value {value:?} for -{name}: {why}"));
        }
        parsed.flags.push((known.name, value));
    }
    parsed.arguments.extend(words);
    Ok(parsed)
}

/// Go's strconv.ParseBool.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Parsed {
    /// The switch is on.
    pub(super) fn has(&self, name: &str) -> bool {
        self.one(name).and_then(boolean).unwrap_or(false)
    }

    /// The last value of a flag.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// As [`Parsed::one`], but an empty value is none.
    pub(super) fn some(&self, name: &str) -> Option<&str> {
        self.one(name).filter(|value| !value.is_empty())
    }

    /// All values of a flag.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |flag| flag.0 == name).map(|flag| flag.1.as_str())
    }

    /// A number.
    ///
    /// # Errors
    /// A line for the user.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let parse = |value: &str| {
            value.trim().parse().map_err(|_| format!("invalid value {value:?} for flag -{name}"))
        };
        self.some(name).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        value("bundle", "").short("b"),
        switch("all", "").short("a"),
        value("env", "").short("e"),
    ];

    fn read(line: &str, order: Order) -> Result<Parsed, String> {
        parse(&mut line.split(' ').map(str::to_owned), &[FLAGS], order)
    }

    #[test]
    fn all_forms_of_flags() {
        let parsed = read("-b x --all=false -e A=1 --env=B=2 -a id -x", Order::First).unwrap();
        assert_eq!(parsed.one("bundle"), Some("x"));
        assert_eq!(parsed.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert!(parsed.has("all"));
        assert_eq!(parsed.arguments, ["id", "-x"]);
        let parsed = read("id 9 --all -- -b", Order::Mixed).unwrap();
        assert!(parsed.has("all"));
        assert_eq!(parsed.arguments, ["id", "9", "-b"]);
        assert_eq!(read("-", Order::Mixed).unwrap().arguments, ["-"]);
    }

    #[test]
    fn wrong_flags_are_named() {
        for (line, expected) in [
            ("--nope", "flag provided but not defined: -nope"),
            ("-b", "flag needs an argument: -b"),
            ("--all=maybe", "invalid boolean value \"maybe\" for -all: parse error"),
        ] {
            assert_eq!(read(line, Order::Mixed).unwrap_err(), expected);
        }
        assert!(read("-b=x", Order::Mixed).unwrap().number::<u32>("bundle").is_err());
    }
}
