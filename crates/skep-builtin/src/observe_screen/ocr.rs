//! Reading the text of a picture, by tesseract in a sandbox.

use std::{collections::BTreeMap, ffi::OsString};

use schemars::JsonSchema;
use serde::Serialize;
use skep_sandbox::{InFile, Run};
use skep_tools::{
    error::ToolError,
    sandboxed::{Job, SandboxOnDemand},
    tool::BuiltIn as _,
    workspace::Context,
};

use super::Layout;

/// Where the picture is inside the sandbox.
const INSIDE: &str = "/tmp/picture";
/// The exit code of `env` if there is no such program.
const NO_PROGRAM: i32 = 127;

/// What reads.
pub(super) struct Ocr {
    pub(super) sandbox: SandboxOnDemand,
}

/// What a picture is and says.
#[derive(Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(super) struct Reading {
    /// Width in pixels, if it is known.
    width: Option<u32>,
    /// Height in pixels, if it is known.
    height: Option<u32>,
    /// The text.
    pub(super) text: String,
    /// How sure the reader is of the words, in percent on average; null if there are none.
    pub(super) confidence: Option<f64>,
    /// Words.
    pub(super) words: usize,
    /// Lines.
    lines: usize,
}

impl Reading {
    pub(super) fn of_size(width: u32, height: u32) -> Reading {
        Reading { width: Some(width), height: Some(height), ..Reading::default() }
    }

    /// The reading of a picture that was enlarged for it.
    pub(super) fn scaled_down(self, scale: u32) -> Reading {
        let down = |length: Option<u32>| length.map(|length| length / scale);
        Reading { width: down(self.width), height: down(self.height), ..self }
    }
}

impl Ocr {
    pub(super) async fn read(
        &self,
        context: &Context,
        picture: Vec<u8>,
        language: &str,
        layout: Layout,
    ) -> Result<Reading, ToolError> {
        // The numbers are tesseract's page segmentation modes. One thread, since several pictures are read at once.
        let mode = match layout {
            Layout::Page => "3",
            Layout::Block => "6",
            Layout::Sparse => "11",
        };
        let command =
            ["env", "OMP_THREAD_LIMIT=1", "tesseract", INSIDE, "stdout", "-l", language, "--psm", mode, "tsv"];
        let mut job = Job::new(super::ObserveScreen::NAME, Run::Argv(command.map(OsString::from).to_vec()));
        job.in_workspace = false; // the picture is all it needs
        job.files = vec![InFile { path: INSIDE.into(), bytes: picture }];
        let table = self.sandbox.run(context, job).await.map_err(|error| explain(error, language))?.stdout;
        let reading = parse(&table, layout);
        // Of some pictures, such as TIFF in grey and alpha of 16 bits, it makes nothing and ends as if all were well.
        if reading.width.is_none() {
            return Err(ToolError::failed("tesseract cannot read this kind of picture; convert it to PNG"));
        }
        Ok(reading)
    }
}

/// Say what is to be done about tesseract's errors.
fn explain(error: ToolError, language: &str) -> ToolError {
    let ToolError::Failed { detail, .. } = &error else { return error };
    let stderr = detail.get("stderr").and_then(|stderr| stderr.as_str()).unwrap_or_default();
    if detail.get("exit_code").and_then(|code| code.as_i64()) == Some(NO_PROGRAM.into()) {
        return ToolError::Unavailable {
            message: "text in pictures is read by tesseract, which is not installed".to_owned(),
            cure: "apt-get install tesseract-ocr, or ask with \"ocr\": false".to_owned(),
        };
    }
    if stderr.contains("Failed loading language") || stderr.contains("Error opening data file") {
        let packages: Vec<_> =
            language.split('+').map(|one| format!("tesseract-ocr-{}", one.replace('_', "-").to_lowercase())).collect();
        return ToolError::Unavailable {
            message: format!("tesseract cannot read the language {language:?}"),
            cure: format!("apt-get install {}, or give another language", packages.join(" ")),
        };
    }
    // The first error has the reason, the others who passed it on.
    match stderr.lines().map(str::trim).find(|line| line.starts_with("Error")) {
        Some(reason) => ToolError::failed(format!("tesseract cannot read the picture: {reason}")),
        None => error,
    }
}

/// Put tesseract's table together: a line for the page (level 1) with its size, and one for each word (level 5) with
/// block, paragraph and line that it is in, its confidence, and its text.
fn parse(table: &str, layout: Layout) -> Reading {
    let mut reading = Reading::default();
    let mut lines = BTreeMap::<[u32; 3], Vec<&str>>::new();
    let mut sum = 0.0;
    for row in table.lines().skip(1) {
        let fields: Vec<&str> = row.splitn(12, '\t').collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
        match (number(0), fields.get(10).zip(fields.get(11))) {
            (1, _) => reading = Reading::of_size(number(8), number(9)),
            (5, Some((confidence, word))) if !word.trim().is_empty() => {
                sum += confidence.parse::<f64>().unwrap_or(0.0).clamp(0.0, 100.0);
                lines.entry([number(2), number(3), number(4)]).or_default().push(word.trim());
            }
            _ => {}
        }
    }
    reading.lines = lines.len();
    let mut before = None;
    for (place, words) in &lines {
        let [block, paragraph, _] = *place;
        // In a sparse layout every line is a block of its own.
        let gap = layout != Layout::Sparse && before.is_some_and(|before| before != (block, paragraph));
        reading.text.push_str(if before.is_none() {
            ""
        } else if gap {
            "\n\n"
        } else {
            "\n"
        });
        reading.text.push_str(&words.join(" "));
        reading.words += words.len();
        before = Some((block, paragraph));
    }
    reading.confidence = (reading.words > 0).then(|| (sum / reading.words as f64 * 10.0).round() / 10.0);
    reading
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    const TABLE: &str = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext
1\t1\t0\t0\t0\t0\t0\t0\t640\t480\t-1\t
2\t1\t1\t0\t0\t0\t10\t10\t100\t20\t-1\t
5\t1\t1\t1\t1\t1\t10\t10\t26\t18\t96\tThe
5\t1\t1\t1\t1\t2\t40\t10\t54\t18\t95.5\thive
5\t1\t1\t1\t2\t1\t10\t30\t54\t18\t90\tis\tawake
5\t1\t2\t1\t1\t1\t10\t90\t54\t18\t80\tend
5\t1\t2\t1\t1\t2\t10\t90\t54\t18\t95\t \n";

    #[test]
    fn the_table_becomes_text() {
        let Reading { text, confidence, words, lines, .. } = parse(TABLE, Layout::Page);
        assert_eq!((text.as_str(), confidence, words, lines), ("The hive\nis\tawake\n\nend", Some(90.4), 4, 3));
        assert_eq!(parse(TABLE, Layout::Sparse).text, "The hive\nis\tawake\nend");
        let reading = parse(TABLE, Layout::Page).scaled_down(2);
        assert_eq!((reading.width, reading.height), (Some(320), Some(240)));
    }

    #[test]
    fn a_table_without_words_or_sense_is_no_text() {
        for table in ["", "\n\n", "level\n5\t1", "level\n5\tx\ty\n1\t1\t0\t0\t0\t0\t0\t0\t-5\t99999999999\t-1\t"] {
            let reading = parse(table, Layout::Page);
            assert_eq!((reading.words, reading.confidence, reading.text.as_str()), (0, None, ""), "{table:?}");
        }
    }

    #[test]
    fn an_error_says_what_to_install() {
        let error = |exit_code: i64, stderr: &str| {
            let detail = json!({"exit_code": exit_code, "stderr": stderr}).as_object().unwrap().clone();
            let error = explain(ToolError::Failed { message: "m".into(), detail }, "chi_sim+deu");
            format!("{}: {error}", error.code())
        };
        assert_snapshot!(error(127, "env: 'tesseract': No such file or directory"), @r#"unavailable: text in pictures is read by tesseract, which is not installed; apt-get install tesseract-ocr, or ask with "ocr": false"#);
        assert_snapshot!(error(1, "Error opening data file x/chi_sim.traineddata\nFailed loading language 'chi_sim'"), @r#"unavailable: tesseract cannot read the language "chi_sim+deu"; apt-get install tesseract-ocr-chi-sim tesseract-ocr-deu, or give another language"#);
        assert_snapshot!(error(1, "Estimating\nError in pixRead: invalid\nError during processing.\n"), @"failed: tesseract cannot read the picture: Error in pixRead: invalid");
        assert_eq!(explain(ToolError::Cancelled, "eng"), ToolError::Cancelled);
    }
}
