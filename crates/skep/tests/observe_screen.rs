//! A real X server with a real window, captured and read in a real sandbox.
//!
//! Needs Xvfb and tesseract. Without them the tests are left out, or fail if `SKEP_TEST_REQUIRE` is set.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use skep_hub::hub::{calls::Calls, catalogue::Catalogue};
use skep_tools::{
    error::ToolError,
    parts::Parts,
    sandboxed::{self, SandboxOnDemand},
    tool::Call,
    workspace::{Context, Dir, Outputs},
};
use tokio_util::sync::CancellationToken;
use x11rb::{
    connection::Connection as _,
    protocol::xproto::{ConnectionExt as _, CreateGCAux, CreateWindowAux, Screen, WindowClass},
    rust_connection::RustConnection,
};

const TEXT: &str = "The hive is awake: 42 bees work today. Order 8124 shipped.";

#[tokio::test]
async fn the_text_of_a_window_is_read_from_the_display() {
    if !there(&["Xvfb", "tesseract"]) {
        return;
    }
    let display = Display::start("800x240x24");
    let _window = display.show(TEXT);
    let skep = Skep::new();
    let answer = skep.observe(json!({"display": display.name})).await.unwrap();
    let text = answer["text"].as_str().unwrap();
    for words in ["hive is awake", "42 bees work today", "Order 8124 shipped"] {
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
    assert!(answer["confidence"].as_f64().unwrap() > 60.0, "{answer}");
    assert!(answer["words"].as_u64().unwrap() >= 11, "{answer}");
    let seen = &answer["images"][0];
    assert_eq!((&seen["width"], &seen["height"], &seen["display"]), (&json!(800), &json!(240), &json!(display.name)));

    // The picture that was kept is read like any other.
    let path = seen["path"].as_str().unwrap();
    let again = skep.observe(json!({"images": ["outputs/*.png"], "layout": "sparse"})).await.unwrap();
    assert_eq!((&again["images"][0]["path"], &again["images"][0]["width"]), (&json!(path), &json!(800)));
    assert!(again["text"].as_str().unwrap().contains("Order 8124 shipped"), "{again}");
}

#[tokio::test]
async fn a_display_is_captured_in_part_and_in_other_depths() {
    if !there(&["Xvfb"]) {
        return;
    }
    for depth in ["320x200x24", "320x200x16"] {
        let display = Display::start(depth);
        let _window = display.show(TEXT);
        let skep = Skep::new();
        let region = json!({"x": 100, "y": 20, "width": 50, "height": 40});
        let answer = skep.observe(json!({"display": display.name, "region": region, "ocr": false})).await.unwrap();
        let seen = &answer["images"][0];
        assert_eq!((&seen["width"], &seen["height"], &seen["text"]), (&json!(50), &json!(40), &json!("")));
        let picture = std::fs::read(skep.directory.path().join(seen["path"].as_str().unwrap())).unwrap();
        let mut picture = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
        let mut pixels = vec![0; picture.output_buffer_size().unwrap()];
        picture.next_frame(&mut pixels).unwrap();
        let [white, black] = [255, 0].map(|shade| pixels.iter().filter(|value| **value == shade).count());
        assert!(white > black && black > 0 && white + black == pixels.len(), "{white} white, {black} black");
        let outside = json!({"display": display.name, "region": {"x": 300, "y": 0, "width": 21, "height": 1}});
        assert!(skep.observe(outside).await.unwrap_err().to_string().contains("320 by 200"));
    }
}

#[tokio::test]
async fn a_picture_that_is_none_and_a_language_that_is_missing_are_said() {
    if !there(&["tesseract"]) {
        return;
    }
    let skep = Skep::new();
    std::fs::write(skep.directory.path().join("workspace/broken.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
    let error = skep.observe(json!({"image": "broken.png"})).await.unwrap_err();
    assert!(error.code() == "failed" && error.to_string().contains("tesseract"), "{error}");
    let error = skep.observe(json!({"image": "broken.png", "language": "tlh"})).await.unwrap_err();
    assert!(error.code() == "unavailable" && error.to_string().contains("tesseract-ocr-tlh"), "{error}");
}

#[tokio::test]
async fn a_kind_of_picture_that_tesseract_passes_over_in_silence_is_an_error() {
    if !there(&["tesseract"]) {
        return;
    }
    let skep = Skep::new();
    std::fs::write(skep.directory.path().join("workspace/deep.tiff"), tiff_with_alpha(64, 32)).unwrap();
    let error = skep.observe(json!({"image": "deep.tiff"})).await.unwrap_err();
    assert!(error.to_string().contains("convert it to PNG"), "{error}");
}

/// A white picture with grey and alpha of 16 bits each (TIFF 6.0): header, directory, pixels.
fn tiff_with_alpha(width: u32, height: u32) -> Vec<u8> {
    let directory: [(u16, u32); 9] = [
        (256, width),
        (257, height),
        (258, 16 | 16 << 16),      // bits of each sample
        (259, 1),                  // no compression
        (262, 1),                  // black is zero
        (273, 8 + 2 + 9 * 12 + 4), // where the pixels are
        (277, 2),                  // samples a pixel
        (278, height),             // rows in the strip
        (279, width * height * 4), // its bytes
    ];
    let mut file = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, value) in directory {
        let (kind, count) = if tag == 258 { (3u16, 2u32) } else { (4, 1) }; // two numbers of 16 bits, or one of 32
        file.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        file.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    file.extend([0; 4]);
    file.extend(vec![0xff; (width * height * 4) as usize]);
    file
}

/// A workspace and its tools.
struct Skep {
    directory: tempfile::TempDir,
    calls: Calls,
    context: Context,
}

impl Skep {
    fn new() -> Skep {
        let directory = tempfile::tempdir().unwrap();
        let dir = |name: &str| Dir::create(&directory.path().join(name)).unwrap();
        let (workspace, outputs) = (dir("workspace"), dir("outputs"));
        // Nobody but its owner may enter it, and in a sandbox root is somebody else; pictures are read all the same.
        std::fs::set_permissions(workspace.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut config = sandboxed::config(&workspace, &outputs);
        config.helper = Some(env!("CARGO_BIN_EXE_skep").into());
        let catalogue = Catalogue::new(skep_builtin::all(Parts::new(SandboxOnDemand::new(config))));
        let calls = Calls::within(catalogue, workspace.clone(), outputs.clone());
        let context = Context::new(
            skep_hub::hub::principals::local().permit().unwrap(),
            workspace,
            Outputs::new(outputs, ""),
            CancellationToken::new(),
        );
        Skep { directory, calls, context }
    }

    async fn observe(&self, arguments: Value) -> Result<Value, ToolError> {
        let call = Call { tool: "observe_screen".to_owned(), arguments, deadline: Some(Duration::from_secs(120)) };
        self.calls.values(self.context.clone(), call).await.map(|answer| Value::Object(answer.value))
    }
}

/// A virtual X server on a free display; ends with the value.
struct Display {
    name: String,
    server: Child,
}

impl Display {
    fn start(geometry: &str) -> Display {
        // The server writes the number of its display when it is ready for clients.
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", geometry, "-fp", "built-ins", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        Display { name: format!(":{}", number.trim()), server }
    }

    /// Show a window with this text over the whole screen; it is drawn when this returns, and goes with the value.
    fn show(&self, text: &str) -> RustConnection {
        let (connection, screen) = RustConnection::connect(Some(&self.name)).unwrap();
        let Screen { root, width_in_pixels, height_in_pixels, white_pixel, black_pixel, root_visual, .. } =
            connection.setup().roots[screen];
        let [window, font, gc] = [(); 3].map(|()| connection.generate_id().unwrap());
        let (class, depth) = (WindowClass::INPUT_OUTPUT, x11rb::COPY_DEPTH_FROM_PARENT);
        let look = CreateWindowAux::new().background_pixel(white_pixel);
        let (width, height) = (width_in_pixels, height_in_pixels);
        connection.create_window(depth, window, root, 0, 0, width, height, 0, class, root_visual, &look).unwrap();
        connection.open_font(font, b"fixed").unwrap();
        let ink = CreateGCAux::new().foreground(black_pixel).background(white_pixel).font(font);
        connection.create_gc(gc, window, &ink).unwrap();
        connection.map_window(window).unwrap();
        connection.image_text8(window, gc, 20, 40, text.as_bytes()).unwrap().check().unwrap(); // waits for the server
        connection
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Whether these programs are installed. If tests must not be left out, one that is missing fails the test.
fn there(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap();
    let missing: Vec<_> =
        programs.iter().filter(|program| !std::env::split_paths(&path).any(|dir| dir.join(program).exists())).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("SKEP_TEST_REQUIRE").is_none(), "not installed: {missing:?}");
    eprintln!("left out, not installed: {missing:?}");
    false
}
