//! Looks at Rust text just closely enough for tidy: code without comments, strings and tests; words; functions. Not a parser.

/// A line of code: its number (from 1 on) and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodeLine {
    pub(crate) number: usize,
    pub(crate) text: String,
}

/// The code of a file: comments removed, strings and characters emptied.
pub(crate) fn code(text: &str) -> Vec<CodeLine> {
    let bytes: Vec<char> = text.chars().collect();
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        at = match bytes[at] {
            '/' if bytes.get(at + 1) == Some(&'/') => skip_line(&bytes, at),
            '/' if bytes.get(at + 1) == Some(&'*') => skip_block(&bytes, at, &mut kept),
            'r' if is_raw_string(&bytes, at) => skip_raw(&bytes, at, &mut kept),
            '"' => skip_string(&bytes, at, &mut kept),
            '\'' => skip_char(&bytes, at, &mut kept),
            other => {
                kept.push(other);
                at + 1
            }
        };
    }
    kept.lines()
        .enumerate()
        .map(|(index, line)| CodeLine { number: index + 1, text: line.to_owned() })
        .collect()
}

fn skip_line(text: &[char], mut at: usize) -> usize {
    while at < text.len() && text[at] != '\n' {
        at += 1;
    }
    at
}

fn skip_block(text: &[char], mut at: usize, kept: &mut String) -> usize {
    let mut depth = 0;
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            (other, _) => {
                if other == '\n' {
                    kept.push('\n');
                }
                at += 1;
            }
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn is_raw_string(text: &[char], at: usize) -> bool {
    let starts_word = at == 0 || !is_word(text[at - 1]) || text[at - 1] == 'b';
    let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
    starts_word && text.get(at + 1 + hashes) == Some(&'"')
}

fn skip_raw(text: &[char], at: usize, kept: &mut String) -> usize {
    let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
    let mut end = at + 2 + hashes;
    kept.push('"');
    while end < text.len() {
        let closes =
            text[end] == '"' && text[end + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
        if closes {
            kept.push('"');
            return end + 1 + hashes;
        }
        if text[end] == '\n' {
            kept.push('\n');
        }
        end += 1;
    }
    end
}

fn skip_string(text: &[char], at: usize, kept: &mut String) -> usize {
    kept.push('"');
    let mut end = at + 1;
    while end < text.len() && text[end] != '"' {
        if text[end] == '\\' {
            end += 1;
        }
        if text.get(end) == Some(&'\n') {
            kept.push('\n');
        }
        end += 1;
    }
    kept.push('"');
    end + 1
}

/// A character, or the apostrophe of a lifetime.
fn skip_char(text: &[char], at: usize, kept: &mut String) -> usize {
    if text.get(at + 1) == Some(&'\\') {
        let close = (at + 3..text.len().min(at + 14)).find(|&end| text[end] == '\'');
        return close.map_or(at + 1, |end| end + 1);
    }
    if text.get(at + 2) == Some(&'\'') {
        return at + 3;
    }
    kept.push('\'');
    at + 1
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Code without what `#[cfg(test)]` stands before: a module, a function, or a statement that ends on its line.
pub(crate) fn without_tests(lines: Vec<CodeLine>) -> Vec<CodeLine> {
    let mut kept = Vec::new();
    let mut lines = lines.into_iter().peekable();
    while let Some(line) = lines.next() {
        if line.text.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let mut depth = 0_usize;
        let mut opened = false;
        for skipped in lines.by_ref() {
            for c in skipped.text.chars() {
                match c {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            if (opened && depth == 0) || (!opened && skipped.text.trim_end().ends_with(';')) {
                break;
            }
        }
    }
    kept
}

/// The words (identifiers, keywords, numbers) of a line.
pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// A function: its name, the line that it starts in, and how many lines it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) length: usize,
}

/// Every function with a body.
pub(crate) fn functions(lines: &[CodeLine]) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let mut words = words(&line.text).skip_while(|word| *word != "fn").skip(1);
        let Some(name) = words.next() else { continue };
        let column = line.text.find("fn ").unwrap_or(0);
        if let Some(length) = body_length(&lines[start..], column) {
            found.push(Function { name: name.to_owned(), line: line.number, length });
        }
    }
    found
}

/// How many lines there are from `column` of the first up to the end of the first block; `None` if a semicolon comes before it.
fn body_length(lines: &[CodeLine], column: usize) -> Option<usize> {
    let mut braces = 0_usize;
    let mut brackets = 0_usize;
    let mut opened = false;
    for (count, line) in lines.iter().enumerate() {
        let from = if count == 0 { column } else { 0 };
        for c in line.text[from..].chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                ';' if !opened && brackets == 0 => return None,
                '{' => (braces, opened) = (braces + 1, true),
                '}' => braces = braces.saturating_sub(1),
                _ => {}
            }
            if opened && braces == 0 {
                return Some(count + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> String {
        code(source).into_iter().map(|line| line.text + "\n").collect()
    }

    #[test]
    fn comments_strings_and_characters_are_not_code() {
        let source = "let a = \"std::time\"; // std::time\n/* std\n::time */ let b = 'x';\nlet c: &'a str = r#\"std\"#;";
        assert_eq!(text(source), "let a = \"\"; \n\n let b = ;\nlet c: &'a str = \"\";\n");
    }

    #[test]
    fn tests_are_cut_out_and_what_follows_stays() {
        let source = "a\n#[cfg(test)]\nextern crate std;\nb\n#[cfg(test)]\nmod tests {\n  fn x() { std }\n}\nc";
        let kept: Vec<String> =
            without_tests(code(source)).into_iter().map(|line| line.text).collect();
        assert_eq!(kept, ["a", "b", "c"]);
    }

    #[test]
    fn functions_are_measured() {
        let source = "fn a(x: [u8; 3]) -> u8 {\n  1\n}\ntrait T { fn none(&self); }\nfn b() {}\n";
        let found = functions(&code(source));
        let lengths: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.length)).collect();
        assert_eq!(lengths, [("a", 1, 3), ("b", 5, 1)]);
    }
}
