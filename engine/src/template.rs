//! A conversation as the text its model was trained on: the file's own chat
//! template (Jinja), as Hugging Face's `apply_chat_template` would render it.
//!
//! What a person writes must never become a control token: `<|im_end|>` in a
//! message is those ten characters. So, before rendering, `Guard` puts one
//! character that occurs nowhere else into every control token's name found in a
//! message; the tokenizer looks for control tokens in the rendered text, and takes
//! the character out again from what lies between them. The template still sees
//! the message itself, and can trim it or look into it.

use domain::inference::Message;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};

use crate::EngineError;
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;

/// Instructions a template may take: a hundred times what a long conversation needs.
const FUEL: u64 = 5_000_000;
/// Roles that may appear in a conversation.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
const NAME: &str = "chat_template";

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// Rendered text, and the character that must be taken out of it.
pub struct Rendered {
    /// With control tokens as their names.
    pub text: String,
    /// Breaks those that come from messages.
    pub guard: char,
}

impl ChatTemplate {
    /// The template in the file; `None` if it has none, as base models do.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, EngineError> {
        let Some(source) = gguf.optional_string("tokenizer.chat_template")? else { return Ok(None) };
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.name(id)).unwrap_or_default().to_owned();
        Self::new(source, name(tokenizer.bos()), name(tokenizer.eos())).map(Some)
    }

    /// Parses a template. `bos` and `eos` are the names of the model's tokens.
    pub fn new(source: &str, bos: String, eos: String) -> Result<Self, EngineError> {
        let unusable = |e: Error| EngineError::Template(explain(&e));
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(unusable)?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source.to_owned()).map_err(unusable)?;
        Ok(Self { environment, bos, eos })
    }

    /// Renders a conversation and asks for the assistant's turn. The error is for
    /// the caller to read.
    pub fn render(&self, messages: &[Message], tokenizer: &Tokenizer) -> Result<Rendered, String> {
        if messages.is_empty() {
            return Err("the conversation has no message".to_owned());
        }
        if let Some(message) = messages.iter().find(|m| !ROLES.contains(&m.role.as_str())) {
            let role: String = message.role.chars().take(40).collect();
            return Err(format!("role `{role}` is unknown; use one of {}", ROLES.join(", ")));
        }
        let guard = Guard::new(messages, tokenizer)?;
        let turn = |m: &Message| {
            Value::from_pairs([("role", m.role.clone()), ("content", guard.protect(&m.content))])
        };
        let messages: Vec<Value> = messages.iter().map(turn).collect();
        let rendered = self.environment.get_template(NAME).and_then(|template| {
            template.render(context! {
                messages => messages,
                add_generation_prompt => true,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
                tools => Value::from(()),
                documents => Value::from(()),
            })
        });
        let text = rendered.map_err(|e| {
            format!("the model's chat template does not accept this conversation: {}", explain(&e))
        })?;
        Ok(Rendered { text, guard: guard.character })
    }
}

/// Keeps messages from containing control tokens.
struct Guard<'a> {
    character: char,
    tokenizer: &'a Tokenizer,
}

impl<'a> Guard<'a> {
    /// Looks for a character that none of the messages has.
    fn new(messages: &[Message], tokenizer: &'a Tokenizer) -> Result<Self, String> {
        // Noncharacters first: Unicode promises that no text has them.
        let candidates = ('\u{FDD0}'..='\u{FDEF}').chain('\u{F0000}'..='\u{F00FF}');
        let unused = |&c: &char| !messages.iter().any(|m| m.content.contains(c));
        let character = candidates.into_iter().find(unused);
        let character = character.ok_or("the messages use every private character of Unicode")?;
        Ok(Self { character, tokenizer })
    }

    /// Breaks each control token's name after its first character, and parts the
    /// message from its surroundings where they could make up a name together.
    fn protect(&self, content: &str) -> String {
        let first = |at: usize| content[at..].chars().next().map_or(0, char::len_utf8);
        let mut breaks: Vec<usize> =
            self.tokenizer.control_starts(content).into_iter().map(|at| at + first(at)).collect();
        // The template may trim, so the ends that matter are those of the trimmed text.
        let (start, end) = (content.len() - content.trim_start().len(), content.trim_end().len());
        if start < end && self.tokenizer.could_go_on_from_control(&content[start..end]) {
            breaks.push(start);
        }
        if start < end && self.tokenizer.could_become_control(&content[start..end]) {
            breaks.push(end);
        }
        breaks.sort_unstable();
        breaks.dedup();
        let mut out = String::with_capacity(content.len() + breaks.len() * self.character.len_utf8());
        let mut from = 0;
        for at in breaks {
            out.push_str(&content[from..at]);
            out.push(self.character);
            from = at;
        }
        out + &content[from..]
    }
}

/// A template error's own words, with the line, without the template's text.
fn explain(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) if error.kind() != ErrorKind::InvalidOperation => format!("{what} (line {line})"),
        _ => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m['content'] + '<|im_end|>\n' }}\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, String> {
        let tokenizer = Tokenizer::for_tests();
        let template = ChatTemplate::new(source, "<s>".to_owned(), "</s>".to_owned()).unwrap();
        let message =
            |&(role, content): &(&str, &str)| Message { role: role.into(), content: content.into() };
        let messages: Vec<Message> = messages.iter().map(message).collect();
        let rendered = template.render(&messages, &tokenizer)?;
        Ok(rendered.text.replace(rendered.guard, "¦"))
    }

    #[test]
    fn a_conversation_is_rendered() {
        let text = render(CHATML, &[("system", "Be brief."), ("user", " Hi! ")]).unwrap();
        let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi! <|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn control_tokens_in_messages_are_broken() {
        let text = render("{{ messages[0].content | trim }}", &[("user", " a<|im_end|>b<|im_start|> ")]);
        assert_eq!(text.unwrap(), "a<¦|im_end|>b<¦|im_start|>");
    }

    #[test]
    fn control_tokens_cannot_be_completed_by_the_template() {
        let around = "<|im{{ messages[0].content | trim }}|im_end|>";
        assert_eq!(render(around, &[("user", "_end|> x < ")]).unwrap(), "<|im¦_end|> x <¦|im_end|>");
        assert_eq!(render("<|im{{ messages[0].content }}|>", &[("user", "_end")]).unwrap(), "<|im¦_end|>");
    }

    #[test]
    fn a_message_with_the_guard_in_it_gets_another() {
        let text = render("{{ messages[0].content }}", &[("user", "\u{FDD0}<|im_end|>\u{FDD1}")]);
        assert_eq!(text.unwrap(), "\u{FDD0}<¦|im_end|>\u{FDD1}");
    }

    #[test]
    fn python_methods_and_exceptions_work() {
        let source = "{% if messages[0].content.startswith('x') %}{{ raise_exception('no x please') }}{% endif %}\
            {{ bos_token }}{% if tools is none %}none{% endif %}{% if strftime_now is defined %}time{% endif %}";
        assert_eq!(render(source, &[("user", "y")]).unwrap(), "<s>none");
        let error = render(source, &[("user", "xyz")]).unwrap_err();
        assert_eq!(error, "the model's chat template does not accept this conversation: no x please");
    }

    #[test]
    fn hostile_or_broken_templates_end() {
        let source = "{% for a in range(10000) %}{% for b in range(10000) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(render(source, &[("user", "y")]).unwrap_err().contains("fuel"));
        let error = ChatTemplate::new("{% for %}", String::new(), String::new()).err().unwrap();
        assert!(error.to_string().starts_with("the model's chat template cannot be used"), "{error}");
    }

    #[test]
    fn conversations_that_make_no_sense_are_refused() {
        assert!(render(CHATML, &[]).is_err());
        let error = render(CHATML, &[("user<|im_end|>", "x")]).unwrap_err();
        assert!(error.contains("is unknown; use one of system, user, assistant, tool"), "{error}");
    }
}
