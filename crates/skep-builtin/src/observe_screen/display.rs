//! A picture of an X display.

use skep_tools::error::{Fault, ToolError};
use x11rb::{
    connection::Connection as _,
    image::{Image, PixelLayout},
    protocol::xproto::{Screen, Visualtype},
    rust_connection::RustConnection,
};

use super::Region;

/// Pixels of a picture; enough for a screen of 8K.
const PIXELS_MAX: usize = 40_000_000;
/// A picture with fewer pixels is enlarged for reading.
const ENLARGED_BELOW: usize = 10_000_000;

/// A picture, three bytes a pixel: red, green, blue.
pub(super) struct Picture {
    pub(super) width: u16,
    pub(super) height: u16,
    pixels: Vec<u8>,
}

/// Take a picture of the display or of a part of it.
pub(super) fn capture(display: &str, region: Option<Region>) -> Result<Picture, ToolError> {
    // A display of this machine is reached by its socket alone: what listens at TCP ports is none of our business.
    let address = if display.starts_with(':') { format!("unix/{display}") } else { display.to_owned() };
    let (connection, screen) = RustConnection::connect(Some(&address)).map_err(|error| ToolError::Unavailable {
        message: format!("the display {display} cannot be opened: {error}"),
        cure: "start an X server there or name another display; XAUTHORITY must hold its key".to_owned(),
    })?;
    let failed = |what: String| ToolError::failed(format!("the display {display} cannot be captured: {what}"));
    let screen = connection.setup().roots.get(screen).ok_or_else(|| failed("it has no screen".into()))?;
    let Region { x, y, width, height } = within(screen, region)?;
    let visual = visual(screen).ok_or_else(|| failed("its root window has no known colours".into()))?;
    let layout = PixelLayout::from_visual_type(visual)
        .map_err(|_| failed("it does not show true colours; start it with a depth of 24".into()))?;
    let image = Image::get(&connection, screen.root, x as i16, y as i16, width, height);
    let (image, _) = image.map_err(|error| failed(error.to_string()))?;
    let mut pixels = Vec::with_capacity(usize::from(width) * usize::from(height) * 3);
    for y in 0..height {
        for x in 0..width {
            let (red, green, blue) = layout.decode(image.get_pixel(x, y));
            pixels.extend([red, green, blue].map(|intensity| (intensity >> 8) as u8));
        }
    }
    Ok(Picture { width, height, pixels })
}

/// The part of the screen that was asked for, if it is one.
fn within(screen: &Screen, region: Option<Region>) -> Result<Region, ToolError> {
    let (width, height) = (screen.width_in_pixels, screen.height_in_pixels);
    let region = region.unwrap_or(Region { x: 0, y: 0, width, height });
    let fits = |from: u16, length: u16, all: u16| length > 0 && u32::from(from) + u32::from(length) <= u32::from(all);
    let fault = |message| Err(ToolError::InvalidArguments(vec![Fault { pointer: "/region".into(), message }]));
    if !fits(region.x, region.width, width) || !fits(region.y, region.height, height) {
        return fault(format!("it is not on the screen, which has {width} by {height} pixels"));
    }
    if usize::from(region.width) * usize::from(region.height) > PIXELS_MAX {
        return fault(format!("give a part of at most {PIXELS_MAX} pixels; the screen has {width} by {height}"));
    }
    Ok(region)
}

/// How the root window's pixels hold colours.
fn visual(screen: &Screen) -> Option<Visualtype> {
    let visuals = screen.allowed_depths.iter().flat_map(|depth| &depth.visuals);
    visuals.copied().find(|visual| visual.visual_id == screen.root_visual)
}

impl Picture {
    /// As a file.
    pub(super) fn png(&self) -> Result<Vec<u8>, ToolError> {
        encode(self.width.into(), self.height.into(), png::ColorType::Rgb, &self.pixels)
    }

    /// As a file for reading, and how many times larger: in grey, and with every pixel doubled, since readers are made
    /// for paper scanned at 300 dots per inch and screens have about 100. (Doubling read more of small fonts right than
    /// smooth enlargement did.)
    pub(super) fn for_ocr(&self) -> Result<(Vec<u8>, u32), ToolError> {
        let scale = if self.pixels.len() / 3 < ENLARGED_BELOW { 2 } else { 1 };
        let (width, height) = (usize::from(self.width), usize::from(self.height));
        let mut grey = Vec::with_capacity(width * height * scale * scale);
        for row in self.pixels.chunks_exact(width * 3) {
            let start = grey.len();
            for pixel in row.chunks_exact(3) {
                let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
                let lightness = ((red * 299 + green * 587 + blue * 114) / 1000) as u8; // ITU-R BT.601
                grey.extend(std::iter::repeat_n(lightness, scale));
            }
            for _ in 1..scale {
                grey.extend_from_within(start..start + width * scale);
            }
        }
        let png = encode((width * scale) as u32, (height * scale) as u32, png::ColorType::Grayscale, &grey)?;
        Ok((png, scale as u32))
    }
}

fn encode(width: u32, height: u32, color: png::ColorType, pixels: &[u8]) -> Result<Vec<u8>, ToolError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_compression(png::Compression::Fast);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(pixels));
    written.map_err(|error| ToolError::failed(format!("the picture cannot be encoded: {error}")))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(file: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn a_picture_is_kept_as_it_is_and_doubled_for_reading() {
        let picture = Picture { width: 2, height: 1, pixels: vec![255, 255, 255, 255, 0, 0] };
        assert_eq!(decode(&picture.png().unwrap()), (2, 1, picture.pixels.clone()));
        let (file, scale) = picture.for_ocr().unwrap();
        assert_eq!((decode(&file), scale), ((4, 2, vec![255, 255, 76, 76, 255, 255, 76, 76]), 2));
    }

    #[test]
    fn a_region_must_be_on_the_screen() {
        let screen = Screen { width_in_pixels: 100, height_in_pixels: 50, ..Screen::default() };
        let region = |x, y, width, height| within(&screen, Some(Region { x, y, width, height })).is_ok();
        assert!(region(0, 0, 100, 50) && region(99, 49, 1, 1));
        assert!(
            !region(0, 0, 101, 50) && !region(1, 0, 100, 50) && !region(0, 49, 1, 2) && !region(65535, 0, 65535, 1)
        );
        assert!(!region(0, 0, 0, 1));
        let large = Screen { width_in_pixels: 10_000, height_in_pixels: 10_000, ..Screen::default() };
        assert!(within(&large, None).is_err());
    }
}
