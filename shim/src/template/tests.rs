//! The store with files that no VMM made.

mod killed;

use std::{
    cell::Cell,
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::{
    Held, Key, Shape, Store, TemplateError, Tenant,
    files::{self, MEMORY, STATE},
    testing,
};

const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    dir: tempfile::TempDir,
    store: Store,
    shape: Shape,
    made: Cell<u32>,
}

impl Place {
    fn new(max: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = testing::store(dir.path(), max);
        let shape = Shape::of(&testing::machine(dir.path())).unwrap();
        Self { dir, store, shape, made: Cell::new(0) }
    }

    fn obtain(&self) -> Result<Held, TemplateError> {
        self.obtain_shape(&self.shape)
    }

    fn obtain_shape(&self, shape: &Shape) -> Result<Held, TemplateError> {
        self.store.obtain(shape, PATIENCE, &mut || (), &mut |draft| {
            self.made.set(self.made.get() + 1);
            testing::files(draft)
        })
    }

    fn key(&self) -> Key {
        self.shape.key().unwrap()
    }

    fn tenant(&self, name: &str) -> Shape {
        let mut shape = self.shape.clone();
        shape.tenant = Tenant::new(Some(name)).unwrap();
        shape
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("templates")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// This program as another process, which does the rest of a test; it is run by what `wrap` says.
fn helper_under(wrap: &[String], dir: &Path, what: &str) -> Command {
    let this = env::current_exe().unwrap().display().to_string();
    let mut words = wrap.to_vec();
    words.extend([this, "--exact".into(), "template::tests::as_another_process".into()]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("--nocapture");
    command.env("BULKHEAD_TEST_STORE", dir).env("BULKHEAD_TEST_DOES", what);
    command
}

fn helper(dir: &Path, what: &str) -> Child {
    helper_under(&[], dir, what).stdout(Stdio::piped()).spawn().unwrap()
}

/// Does nothing unless [`helper`] has started it.
#[test]
fn as_another_process() {
    let Some(dir) = env::var_os("BULKHEAD_TEST_STORE").map(PathBuf::from) else { return };
    let store = testing::store(&dir, 4);
    let text = fs::read(dir.join("shape")).unwrap();
    let shape: Shape = serde_json::from_slice(&text).unwrap();
    let does = env::var("BULKHEAD_TEST_DOES").unwrap();
    if does == "fail" {
        let fail = |_: &Path| Err(TemplateError::Making("no room".into()));
        store.obtain(&shape, PATIENCE, &mut || (), &mut { fail }).unwrap_err();
        return;
    }
    let held = store.obtain(&shape, PATIENCE, &mut || (), &mut |draft| {
        if does == "quick" {
            return testing::files(draft);
        }
        let mut log = File::options().append(true).create(true).open(dir.join("made")).unwrap();
        writeln!(log, "{}", std::process::id()).unwrap();
        if does == "hang" {
            fs::write(draft.join(STATE), "half a state").unwrap();
            println!("\nhanging");
            thread::sleep(Duration::from_secs(600));
        }
        thread::sleep(Duration::from_millis(200));
        testing::files(draft)
    });
    held.unwrap();
}

#[test]
fn it_is_made_once_and_found_again() {
    let place = Place::new(4);
    let held = place.obtain().unwrap();
    assert_eq!(held.key, place.key());
    assert_eq!(held.metadata.instructions, 2);
    drop(held);
    place.obtain().unwrap();
    assert_eq!(place.made.get(), 1);
    let [entry] = place.store.list().try_into().unwrap();
    assert!(entry.current && entry.used.is_some() && entry.metadata.is_ok());
    // Holes take no room.
    assert!((1..1 << 20).contains(&entry.disk), "{}", entry.disk);
    let directory = place.dir.path().join("templates").join(place.key().as_str());
    for (path, mode) in [(directory.clone(), 0o700), (directory.join("template.json"), 0o600)] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
    }
    // Another tenant has another one.
    place.obtain_shape(&place.tenant("other")).unwrap();
    assert_eq!(place.made.get(), 2);
    let key = place.key();
    assert_eq!(place.store.find(key.short()).unwrap(), key);
    assert!(matches!(place.store.find(""), Err(TemplateError::Ambiguous(_))));
    assert!(matches!(place.store.find("zz"), Err(TemplateError::Unknown(_))));
}

#[test]
fn one_of_many_processes_makes_it() {
    let place = Place::new(4);
    let dir = place.dir.path();
    fs::write(dir.join("shape"), serde_json::to_vec(&place.shape).unwrap()).unwrap();
    let helpers: Vec<_> = (0..8).map(|_| helper(dir, "make")).collect();
    for mut helper in helpers {
        assert!(helper.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(dir.join("made")).unwrap().lines().count(), 1);
    place.obtain().unwrap();
    assert_eq!(place.made.get(), 0);
}

#[test]
fn what_a_killed_maker_left_goes() {
    let place = Place::new(4);
    let dir = place.dir.path();
    let other = place.tenant("other");
    fs::write(dir.join("shape"), serde_json::to_vec(&other).unwrap()).unwrap();
    let mut maker = helper(dir, "hang");
    let lines = BufReader::new(maker.stdout.take().unwrap()).lines();
    lines.map(Result::unwrap).find(|line| line == "hanging").unwrap();
    let draft = format!(".new-{}", other.key().unwrap());
    assert!(place.names().contains(&draft));
    // Nobody touches what a living one makes.
    place.obtain().unwrap();
    assert!(place.names().contains(&draft));
    let (mut told, patience) = (0, Duration::from_millis(1200));
    let waited = place.store.obtain(&other, patience, &mut || told += 1, &mut |_| panic!());
    assert!(matches!(waited, Err(TemplateError::Waited(1))));
    assert_eq!(told, 1);
    maker.kill().unwrap();
    maker.wait().unwrap();
    // The next maker clears up, of whatever template.
    place.obtain_shape(&place.tenant("third")).unwrap();
    assert!(!place.names().contains(&draft));
    place.obtain_shape(&other).unwrap();
    assert_eq!(place.made.get(), 3);
}

#[test]
fn every_damage_is_found_and_the_next_start_makes_another() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 11] = [
        ("memory is not there", |dir| fs::remove_file(dir.join(MEMORY)).unwrap()),
        ("state is not there", |dir| fs::remove_file(dir.join(STATE)).unwrap()),
        ("template.json: it is not there", |dir| {
            fs::remove_file(dir.join("template.json")).unwrap();
        }),
        ("memory has 1000 bytes", |dir| {
            File::options().write(true).open(dir.join(MEMORY)).unwrap().set_len(1000).unwrap();
        }),
        ("state has another checksum", |dir| flip(&dir.join(STATE), 3)),
        ("memory has another checksum", |dir| flip(&dir.join(MEMORY), 20 << 20)),
        ("memory has another checksum", |dir| flip(&dir.join(MEMORY), 50 << 20)),
        ("template.json: ", |dir| fs::write(dir.join("template.json"), "{\"key\":").unwrap()),
        ("template.json: it is longer", |dir| {
            fs::write(dir.join("template.json"), vec![b' '; 70_000]).unwrap();
        }),
        ("another machine", |dir| edit(dir, |json| json["shape"]["vcpus"] = 7.into())),
        ("another machine", |dir| {
            edit(dir, |json| json["shape"]["host"]["cpu"] = serde_json::json!(["vendor_id: X"]));
        }),
    ];
    let place = Place::new(4);
    for (number, (word, damage)) in cases.into_iter().enumerate() {
        let directory = place.obtain().unwrap().directory;
        damage(&directory);
        let error = place.obtain().unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("is damaged"), "{word}: {error}");
        assert!(!error.contains('\n'));
        assert!(!directory.exists(), "{word}");
        drop(place.obtain().unwrap());
        assert_eq!(place.made.get() as usize, number + 2, "{word}");
    }
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn edit(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("template.json");
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn files_are_read_once_for_each_boot_of_the_host() {
    let place = Place::new(4);
    let directory = place.obtain().unwrap().directory;
    let verified = directory.join("verified");
    let known = fs::read_to_string(&verified).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(known.contains(boot.trim_end()));
    place.obtain().unwrap();
    assert_eq!(fs::read_to_string(&verified).unwrap(), known);
    // After another boot, or without the note, they are read again.
    for other in ["{}".to_owned(), known.replace(boot.trim_end(), "another boot")] {
        fs::write(&verified, other).unwrap();
        place.obtain().unwrap();
        assert_eq!(fs::read_to_string(&verified).unwrap(), known);
    }
    assert_eq!(place.made.get(), 1);
}

#[test]
fn nobody_else_may_have_written_it() {
    let place = Place::new(4);
    let directory = place.obtain().unwrap().directory;
    for path in [directory.join(MEMORY), directory.clone()] {
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let error = place.obtain().unwrap_err().to_string();
        assert!(error.contains("others may write it (mode 777)"), "{error}");
        fs::set_permissions(&path, before).unwrap();
    }
    // It is not for this program to remove what is not its own.
    place.obtain().unwrap();
    assert_eq!(place.made.get(), 1);
    let root = place.dir.path().join("templates");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    let max = std::num::NonZeroU32::MIN;
    let settings = super::Templates { mode: super::Mode::Auto, directory: root, max };
    assert!(matches!(Store::open(&settings), Err(TemplateError::Foreign { .. })));
}

#[test]
fn the_least_recently_used_one_goes() {
    let place = Place::new(2);
    let [one, two, three] = ["one", "two", "three"].map(|name| place.tenant(name));
    place.obtain_shape(&one).unwrap();
    thread::sleep(Duration::from_millis(20));
    place.obtain_shape(&two).unwrap();
    thread::sleep(Duration::from_millis(20));
    place.obtain_shape(&one).unwrap();
    thread::sleep(Duration::from_millis(20));
    place.obtain_shape(&three).unwrap();
    let keys = || place.store.list().into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    assert!(!keys().contains(&two.key().unwrap()));
    assert_eq!(keys().len(), 2);
    // One that clones are started of stays, even if it is the oldest.
    let held = place.obtain_shape(&one).unwrap();
    place.obtain_shape(&three).unwrap();
    thread::sleep(Duration::from_millis(20));
    place.obtain_shape(&two).unwrap();
    assert!(keys().contains(&held.key) && keys().contains(&two.key().unwrap()));
    place.store.discard(&held.key);
    assert!(keys().contains(&held.key));
    let short = Duration::from_millis(10);
    assert!(matches!(place.store.remove(&held.key, short), Err(TemplateError::Waited(_))));
    let key = held.key.clone();
    drop(held);
    place.store.remove(&key, PATIENCE).unwrap();
    assert!(!place.names().iter().any(|name| name.contains(key.as_str())));
}

#[test]
fn a_failure_is_remembered_and_forgiven() {
    let place = Place::new(4);
    let fail = || {
        place.store.obtain(&place.shape, PATIENCE, &mut || (), &mut |draft| {
            place.made.set(place.made.get() + 1);
            fs::write(draft.join(STATE), "half").unwrap();
            Err(TemplateError::Making("no room".into()))
        })
    };
    assert_eq!(fail().unwrap_err().to_string(), "cannot make a template: no room");
    let error = fail().unwrap_err();
    assert!(matches!(&error, TemplateError::Failed { why, .. } if why == "no room"), "{error}");
    assert_eq!(place.made.get(), 1);
    assert!(!place.names().iter().any(|name| name.starts_with('.')));
    place.store.forgive(&place.key());
    fail().unwrap_err();
    assert!(place.store.prune(false).is_empty());
    place.obtain().unwrap();
    assert_eq!(place.made.get(), 3);
    // A maker that brings less than it should has failed, too.
    let other = place.tenant("other");
    let short = place.store.obtain(&other, PATIENCE, &mut || (), &mut |draft| {
        let made = testing::files(draft);
        File::options().write(true).open(draft.join(MEMORY)).unwrap().set_len(4096).unwrap();
        made
    });
    assert!(short.unwrap_err().to_string().contains("64 MiB"));
}

#[test]
fn what_no_start_could_use_is_pruned() {
    let place = Place::new(4);
    place.obtain().unwrap();
    place.obtain_shape(&place.tenant("other")).unwrap();
    assert!(place.store.prune(false).is_empty());
    fs::write(place.dir.path().join("kernel"), "another kernel").unwrap();
    assert!(place.store.list().iter().all(|entry| !entry.current));
    assert_eq!(place.store.prune(false).len(), 2);
    assert_eq!(place.names(), Vec::<String>::new());
    let shape = Shape::of(&testing::machine(place.dir.path())).unwrap();
    place.obtain_shape(&shape).unwrap();
    assert_eq!(place.store.prune(true).len(), 1);
    assert!(files::used(Path::new("/nowhere")).is_none());
}
