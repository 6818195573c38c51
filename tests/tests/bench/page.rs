//! The HTML page in a real browser: what it shows as text, and that it has drawn.

use std::{fs, path::Path, process::Command};

use bulkhead_tests::harness::Host;

/// Debian's package chromium-headless-shell, and what others call it.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "chrome", "google-chrome"];
const SIZE: (u32, u32) = (1100, 4000);

/// A report of a real run.
fn recorded() -> String {
    format!("{}/tests/bench/startup.json", env!("CARGO_MANIFEST_DIR"))
}

/// Runs the browser on a page; returns its standard output.
fn browse(host: &Host, page: &Path, words: &[&str]) -> String {
    let tried = BROWSERS.into_iter().find_map(|name| {
        let mut command = Command::new(name);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", host.path("browser").display()));
        command.args(words).arg(format!("file://{}", page.display()));
        command.output().ok()
    });
    let output = tried.expect("a browser is needed: chromium-headless-shell (make test brings it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How many pixels of a screenshot have this colour, or one that the eye could not tell from it.
fn pixels(picture: &Path, colour: [u8; 3]) -> usize {
    let file = std::io::BufReader::new(fs::File::open(picture).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((frame.width, frame.height), SIZE);
    let depth = frame.color_type.samples();
    let near = |pixel: &[u8]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 2);
    bytes[..frame.buffer_size()].chunks_exact(depth).filter(|pixel| near(&pixel[..3])).count()
}

#[test]
fn a_browser_shows_the_page_in_light_and_in_dark() {
    let host = Host::new();
    let page = host.path("page.html");
    let show = ["bench", "show", "--html", page.to_str().unwrap(), &recorded()];
    host.run(&show).assert_clean();

    let text = browse(&host, &page, &["--dump-dom"]);
    for words in [
        "<h1>Start-up of busybox",
        "program's first instruction",
        "vm, cold",
        "vm, clone",
        "runc",
        "guest-kernel instructions",
        "transparent huge pages",
    ] {
        assert!(text.contains(words), "{words}");
    }

    let size = format!("--window-size={},{}", SIZE.0, SIZE.1);
    // The surface and the first three colours of the drawings (page.css).
    let light = [[0xfc, 0xfc, 0xfb], [0x2a, 0x78, 0xd6], [0x1b, 0xaf, 0x7a], [0xed, 0xa1, 0x00]];
    let dark = [[0x1a, 0x1a, 0x19], [0x39, 0x87, 0xe5], [0x19, 0x9e, 0x70], [0xc9, 0x85, 0x00]];
    for (scheme, colours) in [("1", light), ("0", dark)] {
        let picture = host.path(&format!("{scheme}.png"));
        let screenshot = format!("--screenshot={}", picture.display());
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        browse(&host, &page, &[&size, &screenshot, &scheme]);
        let [surface, drawn @ ..] = colours.map(|colour| pixels(&picture, colour));
        assert!(surface > 1_000_000, "{scheme}: {surface}");
        // Bars are thousands of pixels, and text of the page is of no such colour.
        assert!(drawn.iter().all(|count| *count > 1000), "{scheme}: {drawn:?}");
    }
}
