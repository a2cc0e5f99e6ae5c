//! What a template says, found out without running any of it.
//!
//! A template is parsed here before the engine sees it, for two reasons. The engine's parser, its compiler and the
//! destructors of what they build recurse, and the parser limits only a part of that; so the tokens are counted first,
//! and a template that would go too deep is refused before anything recurses. And the engine computes constant
//! expressions while it compiles (`"x" * 1000000000` is made then), so nothing that only checks a template may compile it.

use std::collections::{BTreeSet, HashMap};

use minijinja::{
    Error,
    machinery::{
        self, Span, Token,
        ast::{self, BinOpKind, CallArg, Expr, Stmt},
    },
    syntax::SyntaxConfig,
};

use super::{Reference, TemplateError, explain, filters, syntax_config};

/// Operators, filters, subscripts, calls and brackets within one `{{ … }}` or `{% … %}`.
pub const OPERATORS_MAX: usize = 512;
/// Blocks within each other, with every `elif`, which the parser puts into the branch before it.
pub const BLOCKS_DEPTH_MAX: usize = 64;
/// Tokens in one template.
pub const TOKENS_MAX: usize = 250_000;

/// What a template says.
#[derive(Default)]
pub(super) struct Syntax {
    /// The names that it uses.
    pub(super) references: BTreeSet<Reference>,
    /// The filters, tests, functions and methods that it uses.
    pub(super) uses: Vec<Use>,
    /// The expressions whose values go into the text as they are, though not known to be safe in a shell script.
    pub(super) unquoted: Vec<Unquoted>,
    /// Whether evaluating it makes no value that is much larger than those that it uses, however large those are.
    pub(super) is_plain: bool,
    /// Filters, tests and comparisons. Each may have to look at all of a value.
    pub(super) work: usize,
}

/// Something that the engine or this program must know by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) kind: UseKind,
    pub(super) name: String,
    pub(super) line: usize,
}

/// What a name is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UseKind {
    Filter,
    Test,
    Function,
    Method,
}

/// A value that goes into a text unquoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unquoted {
    /// The expression, as it is written.
    pub expression: String,
    /// The input, if it is nothing but one.
    pub input: Option<String>,
    /// The line in the text, from 1.
    pub line: usize,
}

/// What a template says, or why it is none.
pub(super) fn of_template(text: &str) -> Result<Syntax, TemplateError> {
    limits(text, machinery::tokenize(text, false, syntax_config()))?;
    let parsed = machinery::parse(text, "<string>", syntax_config()).map_err(|error| explain(&error))?;
    let mut walk = Walk::new(text);
    walk.statement(&parsed);
    Ok(walk.found)
}

/// What an expression says, or why it is none.
pub(super) fn of_expression(text: &str) -> Result<Syntax, TemplateError> {
    limits(text, machinery::tokenize(text, true, SyntaxConfig::default()))?;
    let parsed = machinery::parse_expr(text).map_err(|error| explain(&error))?;
    let mut walk = Walk::new(text);
    walk.expression(&parsed);
    Ok(walk.found)
}

/// Refuse what is too large or would go too deep. A token that is none is left to the parser, which meets it at the same
/// place and says more about it.
fn limits<'a>(text: &str, tokens: impl Iterator<Item = Result<(Token<'a>, Span), Error>>) -> Result<(), TemplateError> {
    let (mut operators, mut depth, mut is_first) = (0, 0, false);
    // The blocks that are open, and how deep each goes: an `elif` is a level more, and their one end closes them all.
    let mut open: Vec<(&str, usize)> = Vec::new();
    for (count, token) in tokens.enumerate() {
        let Ok((token, span)) = token else { return Ok(()) };
        let error = |message: String| Err(TemplateError::new(Lines::of(text).line(span), message));
        if count >= TOKENS_MAX {
            return error(format!("the template has more than {TOKENS_MAX} tokens"));
        }
        match &token {
            Token::VariableStart | Token::BlockStart => operators = 0,
            token if is_operator(token) => operators += 1,
            _ => {}
        }
        match &token {
            Token::Ident(name @ ("for" | "if" | "with" | "filter" | "autoescape")) if is_first => {
                open.push((name, 1));
                depth += 1;
            }
            Token::Ident("elif") if is_first => {
                open.iter_mut().last().into_iter().for_each(|(_, levels)| *levels += 1);
                depth += 1;
            }
            // Other blocks have ends, too, and are not counted: the parser limits how deep those go.
            Token::Ident(name) if is_first => {
                if let Some((_, levels)) = open.pop_if(|(open, _)| name.strip_prefix("end") == Some(*open)) {
                    depth -= levels;
                }
            }
            _ => {}
        }
        is_first = matches!(token, Token::BlockStart);
        if operators > OPERATORS_MAX {
            return error(format!("an expression has more than {OPERATORS_MAX} operators and brackets"));
        }
        if depth > BLOCKS_DEPTH_MAX {
            return error(format!("blocks are nested more than {BLOCKS_DEPTH_MAX} deep"));
        }
    }
    Ok(())
}

/// Whether it may put what follows or came before one level deeper.
fn is_operator(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(word) => matches!(*word, "and" | "or" | "not" | "is" | "in" | "if" | "else"),
        Token::TemplateData(_)
        | Token::VariableEnd
        | Token::BlockEnd
        | Token::Str(_)
        | Token::String(_)
        | Token::Int(_)
        | Token::Int128(_)
        | Token::Float(_)
        | Token::Comma
        | Token::Colon
        | Token::Assign
        | Token::BracketClose
        | Token::ParenClose
        | Token::BraceClose => false,
        _ => true,
    }
}

/// Where the lines of a text end. The engine's own count ends at 65,535.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line in which a place begins, from 1.
    fn line(&self, span: Span) -> usize {
        1 + self.0.partition_point(|end| *end < span.start_offset as usize)
    }
}

/// Goes through all of a template.
struct Walk<'a> {
    text: &'a str,
    lines: Lines,
    /// The names that the template has defined itself, innermost last, and whether their values are safe in a script.
    scopes: Vec<HashMap<&'a str, bool>>,
    found: Syntax,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Walk<'a> {
        let found = Syntax { is_plain: true, ..Syntax::default() };
        Walk { text, lines: Lines::of(text), scopes: vec![HashMap::new()], found }
    }

    fn define(&mut self, target: &Expr<'a>, is_safe: bool) {
        match target {
            Expr::Var(name) => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.insert(name.id, is_safe);
                }
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.define(item, false)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.define(item, false)),
            _ => {}
        }
    }

    fn defined(&self, name: &str) -> Option<bool> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    fn body(&mut self, statements: &[Stmt<'a>]) {
        self.scopes.push(HashMap::new());
        statements.iter().for_each(|statement| self.statement(statement));
        self.scopes.pop();
    }

    fn statement(&mut self, statement: &Stmt<'a>) {
        if !matches!(statement, Stmt::Template(_) | Stmt::EmitExpr(_) | Stmt::EmitRaw(_)) {
            self.found.is_plain = false;
        }
        match statement {
            Stmt::Template(template) => template.children.iter().for_each(|child| self.statement(child)),
            Stmt::EmitExpr(emit) => {
                self.expression(&emit.expr);
                self.emitted(&emit.expr);
            }
            Stmt::EmitRaw(_) => {}
            Stmt::ForLoop(repeat) => self.repeat(repeat),
            Stmt::IfCond(branch) => {
                self.expression(&branch.expr);
                self.body(&branch.true_body);
                self.body(&branch.false_body);
            }
            Stmt::WithBlock(with) => {
                self.scopes.push(HashMap::new());
                for (target, value) in &with.assignments {
                    self.expression(value);
                    self.define(target, self.is_safe(value));
                }
                self.body(&with.body);
                self.scopes.pop();
            }
            Stmt::Set(set) => {
                self.expression(&set.expr);
                self.define(&set.target, self.is_safe(&set.expr));
            }
            Stmt::SetBlock(set) => {
                set.filter.iter().for_each(|filter| self.expression(filter));
                self.body(&set.body);
                self.define(&set.target, set.filter.as_ref().is_some_and(|filter| self.is_safe(filter)));
            }
            Stmt::AutoEscape(escape) => {
                self.expression(&escape.enabled);
                self.body(&escape.body);
            }
            Stmt::FilterBlock(block) => {
                self.expression(&block.filter);
                let before = self.found.unquoted.len();
                self.body(&block.body);
                if self.is_safe(&block.filter) {
                    self.found.unquoted.truncate(before);
                }
            }
            Stmt::Do(call) => self.call(&call.call),
        }
    }

    fn repeat(&mut self, repeat: &ast::ForLoop<'a>) {
        self.expression(&repeat.iter);
        self.scopes.push(HashMap::from([("loop", false)]));
        self.define(&repeat.target, false);
        repeat.filter_expr.iter().for_each(|condition| self.expression(condition));
        self.body(&repeat.body);
        self.scopes.pop();
        self.body(&repeat.else_body);
    }

    fn expression(&mut self, expression: &Expr<'a>) {
        match expression {
            Expr::Const(_) => {}
            Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_) => self.path(expression),
            Expr::UnaryOp(operation) => {
                self.not_plain_unless(matches!(operation.op, ast::UnaryOpKind::Not));
                self.expression(&operation.expr);
            }
            Expr::BinOp(operation) => {
                self.not_plain_unless(is_comparison(operation.op));
                self.found.work += 1;
                self.expression(&operation.left);
                self.expression(&operation.right);
            }
            Expr::Compare(compare) => {
                self.found.work += compare.ops.len();
                self.expression(&compare.expr);
                compare.ops.iter().for_each(|operation| self.expression(&operation.expr));
            }
            Expr::IfExpr(choice) => {
                self.expression(&choice.test_expr);
                self.expression(&choice.true_expr);
                choice.false_expr.iter().for_each(|otherwise| self.expression(otherwise));
            }
            Expr::Filter(filter) => {
                self.uses(UseKind::Filter, filter.name, filter.span());
                self.not_plain_unless(filter.args.is_empty() && is_plain_filter(filter));
                filter.expr.iter().for_each(|value| self.expression(value));
                self.arguments(&filter.args);
            }
            Expr::Test(test) => {
                self.uses(UseKind::Test, test.name, test.span());
                self.expression(&test.expr);
                self.arguments(&test.args);
            }
            Expr::Call(call) => self.call(call),
            Expr::Slice(slice) => {
                self.found.is_plain = false;
                self.expression(&slice.expr);
                [&slice.start, &slice.stop, &slice.step].into_iter().flatten().for_each(|part| self.expression(part));
            }
            Expr::List(list) => self.parts(&list.items),
            Expr::Tuple(tuple) => self.parts(&tuple.items),
            Expr::Map(map) => {
                self.parts(&map.keys);
                self.parts(&map.values);
            }
        }
    }

    fn parts(&mut self, parts: &[Expr<'a>]) {
        self.found.is_plain = false;
        parts.iter().for_each(|part| self.expression(part));
    }

    fn not_plain_unless(&mut self, is_plain: bool) {
        self.found.is_plain &= is_plain;
    }

    fn uses(&mut self, kind: UseKind, name: &str, span: Span) {
        self.found.work += 1;
        self.found.uses.push(Use { kind, name: name.to_owned(), line: self.lines.line(span) });
    }

    fn arguments(&mut self, arguments: &[CallArg<'a>]) {
        for argument in arguments {
            match argument {
                CallArg::Pos(value)
                | CallArg::Kwarg(_, value)
                | CallArg::PosSplat(value)
                | CallArg::KwargSplat(value) => {
                    self.expression(value);
                }
            }
        }
    }

    fn call(&mut self, call: &ast::Spanned<ast::Call<'a>>) {
        self.found.is_plain = false;
        match &call.expr {
            Expr::Var(name) if self.defined(name.id).is_none() => self.uses(UseKind::Function, name.id, call.span()),
            // `loop.cycle(…)` and `loop.changed(…)` are all the methods that there are.
            Expr::GetAttr(method) if !matches!(&method.expr, Expr::Var(name) if name.id == "loop") => {
                self.uses(UseKind::Method, method.name, call.span());
                self.expression(&method.expr);
            }
            callee => self.expression(callee),
        }
        self.arguments(&call.args);
    }

    /// `tasks.find["result"].total`: the name that it is, as far as that can be told.
    fn path(&mut self, expression: &Expr<'a>) {
        let (mut names, mut at) = (Vec::new(), expression);
        loop {
            match at {
                Expr::GetAttr(attribute) => {
                    names.push(attribute.name.to_owned());
                    at = &attribute.expr;
                }
                Expr::GetItem(item) => {
                    match constant(&item.subscript_expr) {
                        Some(name) => names.push(name.to_owned()),
                        None => {
                            names.clear();
                            self.expression(&item.subscript_expr);
                        }
                    }
                    at = &item.expr;
                }
                Expr::Var(root) => {
                    if self.defined(root.id).is_none() {
                        names.push(root.id.to_owned());
                        self.found.references.extend(Reference::of(names.into_iter().rev()));
                    }
                    return;
                }
                other => return self.expression(other),
            }
        }
    }

    /// The value of this expression becomes a part of the text.
    fn emitted(&mut self, expression: &Expr<'a>) {
        if self.is_safe(expression) {
            return;
        }
        let input = match expression {
            Expr::GetAttr(attribute) if matches!(&attribute.expr, Expr::Var(root) if root.id == "inputs") => {
                Some(attribute.name.to_owned())
            }
            _ => None,
        };
        let span = expression.span();
        let written = self.text.get(span.start_offset as usize..span.end_offset as usize).unwrap_or_default();
        let expression = skep_tools::schema::shorten(written.trim(), 60);
        self.found.unquoted.push(Unquoted { expression, input, line: self.lines.line(span) });
    }

    /// Whether the text of the value cannot be anything but one word, or several words, of a shell: quoted texts,
    /// numbers, truth values, constants, and names that Skep has made.
    fn is_safe(&self, expression: &Expr<'a>) -> bool {
        match expression {
            Expr::Const(_) | Expr::Test(_) | Expr::Compare(_) => true,
            Expr::UnaryOp(_) => true, // `not` gives a truth value, `-` a number
            Expr::BinOp(operation) => match operation.op {
                BinOpKind::Eq | BinOpKind::Ne | BinOpKind::Lt | BinOpKind::Lte | BinOpKind::Gt | BinOpKind::Gte => true,
                BinOpKind::In | BinOpKind::Sub | BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Pow => true,
                BinOpKind::Rem | BinOpKind::Add | BinOpKind::Mul | BinOpKind::Concat => {
                    self.is_safe(&operation.left) && self.is_safe(&operation.right)
                }
                BinOpKind::ScAnd | BinOpKind::ScOr => self.is_safe(&operation.left) && self.is_safe(&operation.right),
            },
            Expr::IfExpr(choice) => {
                self.is_safe(&choice.true_expr) && choice.false_expr.as_ref().is_none_or(|other| self.is_safe(other))
            }
            Expr::Filter(filter) => matches!(filter.name, "quote" | "length" | "count" | "int" | "float" | "bool"),
            Expr::Var(name) => self.defined(name.id).unwrap_or(false),
            Expr::GetAttr(attribute) => match (&attribute.expr, attribute.name) {
                (Expr::Var(root), "id") => root.id == "run",
                (Expr::Var(root), _) => root.id == "loop",
                (_, "status") => is_task(&attribute.expr),
                _ => false,
            },
            _ => false,
        }
    }
}

/// `tasks.NAME`
fn is_task(expression: &Expr<'_>) -> bool {
    let root = match expression {
        Expr::GetAttr(attribute) => &attribute.expr,
        Expr::GetItem(item) => &item.expr,
        _ => return false,
    };
    matches!(root, Expr::Var(name) if name.id == "tasks")
}

/// A subscript that is a text.
fn constant<'e>(subscript: &'e Expr<'_>) -> Option<&'e str> {
    match subscript {
        Expr::Const(constant) => constant.value.as_str(),
        _ => None,
    }
}

/// Whether it gives one of its operands, or a truth value.
fn is_comparison(operator: BinOpKind) -> bool {
    match operator {
        BinOpKind::Eq | BinOpKind::Ne | BinOpKind::Lt | BinOpKind::Lte | BinOpKind::Gt | BinOpKind::Gte => true,
        BinOpKind::ScAnd | BinOpKind::ScOr | BinOpKind::In => true,
        BinOpKind::Add | BinOpKind::Sub | BinOpKind::Mul | BinOpKind::Div | BinOpKind::FloorDiv => false,
        BinOpKind::Rem | BinOpKind::Pow | BinOpKind::Concat => false,
    }
}

/// Whether a filter without arguments gives little more than it gets: at most one in a chain writes a text several times
/// as long, all others make it shorter.
fn is_plain_filter(filter: &ast::Filter<'_>) -> bool {
    let (mut growing, mut at) = (0, Some(filter));
    while let Some(filter) = at {
        if filters::GROWING.contains(&filter.name) {
            growing += 1;
        } else if !filters::SHRINKING.contains(&filter.name) {
            return false;
        }
        at = match &filter.expr {
            Some(Expr::Filter(inner)) => Some(inner),
            _ => None,
        };
    }
    growing <= 1
}
