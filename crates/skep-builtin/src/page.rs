//! HTML as text that a model can read.
//!
//! The pages come from strangers, so this goes over a page once, from tag to tag, and keeps no tree: it takes time in
//! proportion to the page, holds little more than the text, can be stopped, and does not mind wrong nesting. (The
//! libraries that lay a page out as text build the tree first and render it level by level; 200,000 nested `<div>`, a
//! page of one megabyte, keep them busy for longer than any deadline.) What is lost is layout: a table is a line for
//! each row.

use std::{cell::RefCell, time::Instant};

use html5ever::{
    tendril::StrTendril,
    tokenizer::{
        BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer,
        states::RawKind::{Rawtext, Rcdata, ScriptData},
    },
};
use reqwest::Url;

/// Bytes that are read between two looks at the clock.
const PIECE: usize = 4 << 10;
/// Lists and quotations, one in the other, that are indented; deeper ones are not indented further.
const INDENT_MAX: usize = 16;
/// Bytes of a title.
const TITLE_MAX: usize = 1000;

/// What of a page's structure is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Paragraphs and lists.
    Text,
    /// Headings, links, images and code too, in Markdown.
    Markdown,
}

/// A page, read.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub(super) title: Option<String>,
    pub(super) text: String,
    /// Text is missing at the end.
    pub(super) truncated: bool,
}

/// Read a page that came from `base`, up to `bytes_max` of text or until `deadline`.
pub(super) fn read(html: &str, base: &Url, style: Style, bytes_max: usize, deadline: Instant) -> Page {
    let tokenizer = Tokenizer::new(Reader::new(base, style, bytes_max), Default::default());
    let input = BufferQueue::default();
    let mut rest = html;
    let mut truncated = false;
    while !rest.is_empty() && !truncated {
        let (piece, later) = rest.split_at(rest.floor_char_boundary(PIECE.min(rest.len())));
        rest = later;
        input.push_back(StrTendril::from_slice(piece));
        while !matches!(tokenizer.feed(&input), html5ever::TokenizerResult::Done) {}
        truncated = tokenizer.sink.0.borrow().is_full() || Instant::now() >= deadline;
    }
    if !truncated {
        tokenizer.end();
    }
    tokenizer.sink.0.into_inner().page(truncated)
}

/// The tokenizer calls by shared reference.
struct Reader(RefCell<Text>);

/// The text so far, and where in the page it ends.
struct Text {
    style: Style,
    base: Url,
    bytes_max: usize,
    out: String,
    title: Option<String>,
    /// The element whose contents are dropped, and how often it is open.
    skipped: Option<(String, usize)>,
    in_title: bool,
    /// Line breaks to make before the next text.
    breaks: usize,
    /// White space was seen since the last text.
    space: bool,
    /// The next text begins a line.
    at_start: bool,
    /// `<pre>` elements that are open.
    preformatted: usize,
    /// Lists that are open, each with the number of its last item if it counts them.
    lists: Vec<Option<usize>>,
    /// Quotations that are open.
    quotes: usize,
    /// Nothing of the text of the last of them was seen.
    preformatted_begins: bool,
    /// What stands before the next text, such as the marker of a list item.
    marker: String,
    /// Where the text of the open link begins, and where the link leads.
    link: Option<(usize, String)>,
    /// Cells of the open table row so far.
    cells: usize,
}

impl Reader {
    fn new(base: &Url, style: Style, bytes_max: usize) -> Reader {
        Reader(RefCell::new(Text {
            style,
            base: base.clone(),
            bytes_max,
            out: String::new(),
            title: None,
            skipped: None,
            in_title: false,
            breaks: 0,
            space: false,
            at_start: true,
            preformatted: 0,
            preformatted_begins: false,
            lists: Vec::new(),
            quotes: 0,
            marker: String::new(),
            link: None,
            cells: 0,
        }))
    }
}

impl TokenSink for Reader {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut text = self.0.borrow_mut();
        match token {
            Token::CharacterTokens(characters) => text.characters(&characters),
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => return text.start(&tag),
            Token::TagToken(tag) => text.end(&tag.name),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl Text {
    fn page(mut self, truncated: bool) -> Page {
        let full = self.is_full();
        self.out.truncate(self.out.floor_char_boundary(self.bytes_max.min(self.out.len())));
        self.out.truncate(self.out.trim_end().len());
        Page { title: self.title.filter(|title| !title.is_empty()), text: self.out, truncated: truncated || full }
    }

    fn is_full(&self) -> bool {
        self.out.len() > self.bytes_max
    }

    fn start(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name = &*tag.name;
        if let Some((skipped, depth)) = &mut self.skipped {
            *depth += usize::from(skipped == name && !tag.self_closing);
            return raw(name);
        }
        match name {
            "script" | "style" | "template" | "svg" | "math" | "iframe" | "object" | "canvas" | "noembed"
            | "noframes" => {
                if !tag.self_closing {
                    self.skipped = Some((name.to_owned(), 1));
                }
            }
            "title" => self.in_title = self.title.is_none(),
            "base" => {
                self.base =
                    attribute(tag, "href").and_then(|to| self.base.join(to).ok()).unwrap_or_else(|| self.base.clone())
            }
            "br" => self.breaks = (self.breaks + 1).min(2),
            "hr" => self.rule(),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.heading(name),
            "ul" | "menu" => self.list(None),
            "ol" => {
                let first = attribute(tag, "start").and_then(|first| first.parse().ok()).unwrap_or(1usize);
                self.list(Some(first.saturating_sub(1)));
            }
            "blockquote" => {
                self.gap(2);
                self.quotes += 1;
            }
            "li" => self.item(),
            "tr" => {
                self.gap(1);
                self.cells = 0;
            }
            "td" | "th" => self.cell(),
            "pre" => self.open_code_block(),
            "code" if self.preformatted == 0 => self.mark("`"),
            "a" => self.open_link(tag),
            "img" => self.image(tag),
            _ => self.gap(lines_around(name)),
        }
        raw(name)
    }

    fn end(&mut self, name: &str) {
        if let Some((skipped, depth)) = &mut self.skipped {
            if skipped == name {
                *depth -= 1;
                if *depth == 0 {
                    self.skipped = None;
                }
            }
            return;
        }
        match name {
            "title" => self.in_title = false,
            "ul" | "menu" | "ol" => {
                self.lists.pop();
                self.close_marked(if self.lists.is_empty() { 2 } else { 1 });
            }
            "blockquote" => {
                self.quotes = self.quotes.saturating_sub(1);
                self.gap(2);
            }
            "pre" => self.close_code_block(),
            "code" if self.preformatted == 0 => self.close_mark("`"),
            "a" => self.close_link(),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.close_marked(2),
            "li" => self.close_marked(1),
            "tr" => self.gap(1),
            _ => self.gap(lines_around(name)),
        }
    }

    fn characters(&mut self, characters: &str) {
        if self.skipped.is_some() {
            return;
        }
        if self.in_title {
            let title = self.title.get_or_insert_default();
            for word in characters.split_whitespace() {
                if title.len() + word.len() < TITLE_MAX {
                    title.push_str(if title.is_empty() { "" } else { " " });
                    title.push_str(word);
                }
            }
            return;
        }
        if self.preformatted > 0 {
            return self.preformatted_text(characters);
        }
        // White space is that of HTML; a no-break space is kept.
        let white = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c');
        self.space |= characters.starts_with(white);
        for word in characters.split(white).filter(|word| !word.is_empty()) {
            self.write(word);
            self.space = true;
        }
        self.space = characters.ends_with(white) || (self.space && characters.trim_matches(white).is_empty());
    }

    /// Add text, with what is due before it.
    fn write(&mut self, text: &str) {
        self.begin();
        if self.space && !self.at_start {
            self.out.push(' ');
        }
        self.space = false;
        self.at_start = false;
        self.out.push_str(text);
    }

    /// Make the line breaks that are due, and what stands before the line.
    fn begin(&mut self) {
        if self.breaks > 0 && !self.out.is_empty() {
            self.out.truncate(self.out.trim_end_matches(' ').len());
            for _ in 0..self.breaks {
                self.out.push('\n');
            }
            self.at_start = true;
        }
        self.breaks = 0;
        if self.at_start {
            self.space = false;
            let within_item = usize::from(!self.marker.is_empty());
            if self.is_markdown() {
                self.out.push_str(&"> ".repeat(self.quotes.min(INDENT_MAX)));
            }
            self.out.push_str(&"  ".repeat(self.lists.len().saturating_sub(within_item).min(INDENT_MAX)));
            self.out.push_str(&std::mem::take(&mut self.marker));
        }
    }

    fn preformatted_text(&mut self, characters: &str) {
        // The first line break after <pre> is not part of the text.
        let first = std::mem::take(&mut self.preformatted_begins);
        let characters = characters.strip_prefix('\n').filter(|_| first).unwrap_or(characters);
        for (index, line) in characters.split('\n').enumerate() {
            if index > 0 {
                self.begin();
                self.out.push('\n');
                self.at_start = true;
            }
            if !line.is_empty() {
                self.begin();
                self.at_start = false;
                self.out.push_str(line);
            }
        }
    }

    fn gap(&mut self, lines: usize) {
        if !self.marker.is_empty() {
            return; // a paragraph in a list item begins beside the marker
        }
        self.breaks = self.breaks.max(lines);
        if lines > 0 {
            self.space = false;
        }
    }

    fn is_markdown(&self) -> bool {
        self.style == Style::Markdown
    }

    fn rule(&mut self) {
        self.gap(2);
        if self.is_markdown() {
            self.write("---");
            self.gap(2);
        }
    }

    fn heading(&mut self, name: &str) {
        self.gap(2);
        if self.is_markdown() {
            let level = name[1..].parse().unwrap_or(1);
            self.marker = format!("{} ", "#".repeat(level));
        }
    }

    fn list(&mut self, number: Option<usize>) {
        self.gap(if self.lists.is_empty() { 2 } else { 1 });
        self.lists.push(number);
    }

    fn item(&mut self) {
        self.gap(1);
        self.marker = match self.lists.last_mut() {
            Some(Some(number)) => {
                *number = number.saturating_add(1);
                format!("{number}. ")
            }
            _ => "* ".to_owned(),
        };
    }

    /// A heading or list item ends; an empty one leaves nothing behind.
    fn close_marked(&mut self, lines: usize) {
        self.marker.clear();
        self.gap(lines);
    }

    fn cell(&mut self) {
        self.cells += 1;
        if self.cells > 1 && self.breaks <= 1 {
            self.breaks = 0;
            self.space = true;
            self.write("|");
        }
        self.space = true;
    }

    fn open_code_block(&mut self) {
        self.gap(2);
        self.preformatted += 1;
        self.preformatted_begins = true;
        if self.is_markdown() {
            self.write("```");
            self.out.push('\n');
            self.at_start = true;
        }
    }

    fn close_code_block(&mut self) {
        if self.preformatted == 0 {
            return;
        }
        self.preformatted -= 1;
        self.preformatted_begins = false;
        self.out.truncate(self.out.trim_end_matches('\n').len());
        if self.is_markdown() {
            self.breaks = 1;
            self.write("```");
        }
        self.gap(2);
    }

    fn mark(&mut self, mark: &str) {
        if self.is_markdown() {
            self.write(mark);
            self.at_start = true;
        }
    }

    fn close_mark(&mut self, mark: &str) {
        if self.is_markdown() {
            let space = std::mem::take(&mut self.space);
            self.write(mark);
            self.space = space;
        }
    }

    fn open_link(&mut self, tag: &Tag) {
        self.close_link();
        let to = attribute(tag, "href").and_then(|to| self.base.join(to.trim()).ok());
        let to = to.filter(|to| self.is_markdown() && matches!(to.scheme(), "http" | "https"));
        if let Some(to) = to {
            self.write("[");
            self.at_start = true;
            self.link = Some((self.out.len(), to.into()));
        }
    }

    fn close_link(&mut self) {
        let Some((start, to)) = self.link.take() else { return };
        if self.out[start..].trim().is_empty() {
            self.out.truncate(start - 1); // "[" alone
            return;
        }
        let to = to.replace('(', "%28").replace(')', "%29");
        self.close_mark(&format!("]({to})"));
    }

    fn image(&mut self, tag: &Tag) {
        let alt = attribute(tag, "alt").map(str::trim).filter(|alt| !alt.is_empty());
        let from = attribute(tag, "src").and_then(|from| self.base.join(from).ok());
        let from = from.filter(|from| matches!(from.scheme(), "http" | "https"));
        if let (true, Some(from)) = (self.is_markdown(), from) {
            self.write(&format!("![{}]({from})", alt.unwrap_or_default()));
        }
    }
}

/// How the tokenizer must go on after this start tag: the contents of some elements are no markup.
fn raw(name: &str) -> TokenSinkResult<()> {
    match name {
        "script" => TokenSinkResult::RawData(ScriptData),
        "title" | "textarea" => TokenSinkResult::RawData(Rcdata),
        "style" | "xmp" | "iframe" | "noembed" | "noframes" => TokenSinkResult::RawData(Rawtext),
        "plaintext" => TokenSinkResult::Plaintext,
        _ => TokenSinkResult::Continue,
    }
}

/// Line breaks before and after an element: two make a paragraph.
fn lines_around(name: &str) -> usize {
    match name {
        "p" | "section" | "article" | "main" | "table" | "dl" | "figure" | "form" | "header" | "footer" | "nav"
        | "aside" | "fieldset" | "details" | "xmp" => 2,
        "div" | "dt" | "dd" | "caption" | "thead" | "tbody" | "tfoot" | "figcaption" | "address" | "summary"
        | "option" | "center" | "legend" | "body" | "html" | "head" | "hgroup" | "search" | "dialog" => 1,
        _ => 0,
    }
}

fn attribute<'a>(tag: &'a Tag, name: &str) -> Option<&'a str> {
    tag.attrs.iter().find(|attribute| &*attribute.name.local == name).map(|attribute| &*attribute.value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;

    fn page(html: &str, style: Style, bytes_max: usize) -> Page {
        let base = "https://example.com/dir/page".parse().unwrap();
        read(html, &base, style, bytes_max, Instant::now() + Duration::from_secs(20))
    }

    const EXAMPLE: &str = r#"<!DOCTYPE html><html><head><title> A &amp; B
        </title><style>p { color: red }</style><script>if (a < b) "<p>no</p>"</script></head><body>
        <h1>Head &eacute; one</h1><p>Some <b>bold</b>text, a <a href="../x?y=(1)">link <i>in</i></a>, <code>code</code>.
        <br>Next line<p>unclosed
        <ul><li>one<li>two <ol start=3><li>a</ol><li><p>three</ul>
        <table><tr><th>A<th>B</tr><tr><td>1</td> <td>2 <b>two</b></td></table>
        <pre>
code {
    indented
}
</pre><blockquote><p>quoted<br>twice</blockquote><hr><a href="javascript:x()">script</a> <a href="/empty"></a>
        <img src="/i.png" alt="pic"><svg><title>drawing</title><text>no</text></svg><noscript>shown</noscript>
        1,&nbsp;2</body>"#;

    #[test]
    fn a_page_reads_as_text() {
        let page = page(EXAMPLE, Style::Text, 10_000);
        assert_eq!((page.title.as_deref(), page.truncated), (Some("A & B"), false));
        assert_snapshot!(page.text, @r"
        Head é one

        Some boldtext, a link in, code.
        Next line

        unclosed

        * one
        * two
          3. a
        * three

        A | B
        1 | 2 two

        code {
            indented
        }

        quoted
        twice

        script shown 1, 2
        ");
    }

    #[test]
    fn a_page_reads_as_markdown() {
        assert_snapshot!(page(EXAMPLE, Style::Markdown, 10_000).text, @r"
        # Head é one

        Some boldtext, a [link in](https://example.com/x?y=%281%29), `code`.
        Next line

        unclosed

        * one
        * two
          3. a
        * three

        A | B
        1 | 2 two

        ```
        code {
            indented
        }
        ```

        > quoted
        > twice

        ---

        script ![pic](https://example.com/i.png)shown 1, 2
        ");
    }

    #[test]
    fn an_empty_heading_or_item_leaves_nothing() {
        let html = "<h1> </h1><p>text<ul><li></li><li>item<li></ul>end";
        assert_eq!(page(html, Style::Markdown, 1000).text, "text\n\n* item\n\nend");
    }

    #[test]
    fn the_text_is_cut_at_its_limit() {
        let page = page(&"<p>é".repeat(10_000), Style::Text, 101);
        assert!(page.truncated && page.text.len() <= 101 && page.text.len() > 90, "{page:?}");
    }

    #[test]
    fn hostile_pages_take_no_more_time_than_others() {
        let attributes: String = (0..200_000).map(|n| format!("a{n}=1 ")).collect();
        for html in [
            "<div>".repeat(200_000),
            "<ul><li>x".repeat(100_000),
            "<blockquote>x".repeat(100_000),
            "<table><tr><td>x".repeat(50_000),
            "<a href=x><b><i><p>".repeat(50_000),
            "<svg>".repeat(200_000),
            "<pre>\n".repeat(200_000),
            "<title>".repeat(200_000),
            "</div></ul></a></svg>".repeat(50_000),
            "&amp".repeat(300_000),
            "<!--".repeat(300_000),
            "<![CDATA[".repeat(100_000),
            "<table><tr><td colspan=1000000000 rowspan=1000000000>x</table>".to_owned(),
            format!("<p {attributes}>x"),
            "<".repeat(1_000_000),
        ] {
            let base = "https://example.com/".parse().unwrap();
            let began = Instant::now();
            let page = read(&html, &base, Style::Markdown, 10 << 20, began + Duration::from_millis(500));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?} of {:.20}", began.elapsed(), html);
            assert!(page.text.len() <= 10 << 20);
        }
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(parts in prop::collection::vec(prop_oneof![
            prop::sample::select(vec!["<a href=/x>", "</a>", "<pre>", "</pre>", "<code>", "</code>", "<ul>", "</ul>", "<li>",
                "<ol start=99999999999999999999>", "</ol>", "<td>", "<tr>", "<svg>", "</svg>", "<svg/>", "<title>", "</title>",
                "<h1>", "</h1>", "<br>", "<hr>", "<img src=x alt=é>", "<blockquote>", "</blockquote>", "<base href='//['>",
                "<base href=http://b/>", "\n", " ", "&nbsp;", "&", "<", "é", "x"]).prop_map(str::to_owned),
            any::<String>(),
        ], 0..60), limit in 0usize..200) {
            for style in [Style::Text, Style::Markdown] {
                let page = page(&parts.concat(), style, limit);
                prop_assert!(page.text.len() <= limit);
            }
        }
    }
}
