//! What the operators take, and what is known of their result before any request.

use cel::common::ast::CallExpr;
use cel::common::ast::Expr;
use cel::common::ast::operators;
use cel::parser::Expression as Parsed;

use super::check::Checker;
use super::check::Typed;
use super::node::Bool;
use super::node::Double;
use super::node::If;
use super::node::Int;
use super::node::Text;
use super::op;
use super::op::Arithmetic;
use super::op::Compare;

impl Checker<'_> {
    /// An operator or a function.
    pub(super) fn call(&mut self, part: &Parsed, call: &CallExpr) -> Option<Typed> {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND, _) => self.logic(part, name, false),
            (operators::LOGICAL_OR, _) => self.logic(part, name, true),
            (operators::LOGICAL_NOT, [inner]) => self.not(inner),
            (operators::NEGATE, [inner]) => self.negated(part, inner),
            (operators::CONDITIONAL, [test, then, otherwise]) => {
                self.conditional(part, test, then, otherwise)
            }
            (operators::INDEX, [of, index]) => self.index(part, of, index),
            (operators::IN, [item, of]) => self.among(part, item, of),
            (_, [left, right]) if call.target.is_none() => {
                match (comparison(name), arithmetic(name)) {
                    (Some((op, sign)), _) => self.compare(part, (op, sign), left, right),
                    (_, Some((op, sign))) => self.calculate(part, (op, sign), left, right),
                    _ => self.function(part, call),
                }
            }
            _ => self.function(part, call),
        }
    }

    /// `&&` and `||` with all their operands: `a && b && c` is one.
    fn logic(&mut self, part: &Parsed, name: &str, decider: bool) -> Option<Typed> {
        let mut operands = Vec::new();
        flatten(part, name, &mut operands);
        let (mut clauses, mut is_decided, mut is_wrong) = (Vec::new(), false, false);
        for operand in operands {
            let known = self.inputs.len();
            match self.bool(operand) {
                None => is_wrong = true,
                Some(Bool::Const(value)) => is_decided |= value == decider,
                Some(clause) => clauses.push((self.cost_since(known), clause)),
            }
        }
        // Stable, and it changes no result: a clause that decides does so from every place.
        clauses.sort_by_key(|(cost, _)| *cost);
        let mut clauses: Vec<_> = clauses.into_iter().map(|(_, clause)| clause).collect();
        let node = match clauses.len() {
            _ if is_wrong => return None,
            _ if is_decided => Bool::Const(decider),
            0 => Bool::Const(!decider),
            1 => clauses.pop()?,
            _ => Bool::Logic { clauses: clauses.into(), decider },
        };
        Some(Typed::Bool(node))
    }

    fn not(&mut self, inner: &Parsed) -> Option<Typed> {
        Some(Typed::Bool(match self.bool(inner)? {
            Bool::Const(value) => Bool::Const(!value),
            Bool::Not(inner) => *inner,
            node => Bool::Not(Box::new(node)),
        }))
    }

    fn negated(&mut self, part: &Parsed, inner: &Parsed) -> Option<Typed> {
        match self.check(inner)? {
            Typed::Int(Int::Const(value)) => match value.checked_neg() {
                Some(value) => Some(Typed::Int(Int::Const(value))),
                None => self.refuse(part, "this number is out of range"),
            },
            Typed::Int(node) => Some(Typed::Int(Int::Negated(Box::new(node)))),
            Typed::Double(Double::Const(value)) => Some(Typed::Double(Double::Const(-value))),
            Typed::Double(node) => Some(Typed::Double(Double::Negated(Box::new(node)))),
            other => {
                let found = format!("{} is {}", self.source.quote(inner), other.described());
                self.refuse(part, format!("`-` takes an int or a double; {found}"))
            }
        }
    }

    fn conditional(
        &mut self,
        part: &Parsed,
        test: &Parsed,
        then_part: &Parsed,
        else_part: &Parsed,
    ) -> Option<Typed> {
        let test = self.bool(test);
        let before_then = self.inputs.len();
        let then = self.check(then_part);
        let before_else = self.inputs.len();
        let otherwise = self.check(else_part);
        let (test, then, otherwise) = (test?, then?, otherwise?);
        if then.described() != otherwise.described() {
            return self.mismatch(part, "?:", (then_part, &then), (else_part, &otherwise));
        }
        match test {
            Bool::Const(true) => {
                self.inputs.truncate(before_else);
                Some(then)
            }
            Bool::Const(false) => {
                self.inputs.drain(before_then..before_else);
                Some(otherwise)
            }
            test => match choice(test, then, otherwise) {
                Ok(typed) => Some(typed),
                Err(kind) => self.refuse(part, format!("`?:` cannot choose {kind}")),
            },
        }
    }

    fn index(&mut self, part: &Parsed, of: &Parsed, index: &Parsed) -> Option<Typed> {
        let list = match self.check(of)? {
            Typed::Map(map) => {
                let key = self.check(index)?;
                let entry = self.entry_of(part, map, (index, key))?;
                return Some(Typed::Text(Text::Entry(Box::new(entry))));
            }
            Typed::Models => return self.model(index),
            list @ (Typed::Texts(_) | Typed::Ints(_) | Typed::Doubles(_)) => list,
            other => {
                let found = format!("{} is {}", self.source.quote(of), other.described());
                return self.refuse(part, format!("`[…]` is for lists and maps; {found}"));
            }
        };
        let at = match self.check(index)? {
            Typed::Int(at) => at,
            other => {
                let found = format!("{} is {}", self.source.quote(index), other.described());
                return self.refuse(index, format!("a list's items are counted by ints; {found}"));
            }
        };
        match list {
            Typed::Texts(items) => Some(Typed::Text(Text::Item(Box::new((items, at))))),
            Typed::Ints(items) => Some(Typed::Int(Int::Item(Box::new((items, at))))),
            Typed::Doubles(items) => Some(Typed::Double(Double::Item(Box::new((items, at))))),
            _ => None,
        }
    }

    fn among(&mut self, part: &Parsed, item: &Parsed, of: &Parsed) -> Option<Typed> {
        let (wanted, list) = (self.check(item), self.check(of));
        let (wanted, list) = (wanted?, list?);
        if let Typed::Map(map) = list {
            let entry = self.entry_of(part, map, (item, wanted))?;
            return Some(Typed::Bool(Bool::Has(Box::new(entry))));
        }
        Some(Typed::Bool(match (wanted, list) {
            (Typed::Text(wanted), Typed::Texts(list)) => Bool::AmongTexts(Box::new((wanted, list))),
            (Typed::Int(wanted), Typed::Ints(list)) => Bool::AmongInts(Box::new((wanted, list))),
            (Typed::Double(wanted), Typed::Doubles(list)) => {
                Bool::AmongDoubles(Box::new((wanted, list)))
            }
            (wanted, list) => {
                return self.mismatch(part, "in", (item, &wanted), (of, &list));
            }
        }))
    }

    fn compare(
        &mut self,
        part: &Parsed,
        (op, sign): (Compare, &str),
        left: &Parsed,
        right: &Parsed,
    ) -> Option<Typed> {
        let (a, b) = (self.check(left), self.check(right));
        let (a, b) = (a?.uint_as_int(), b?.uint_as_int());
        Some(Typed::Bool(match (a, b) {
            (Typed::Int(a), Typed::Int(b)) => compare_ints(op, a, b),
            (Typed::Int(a), Typed::Double(b)) => compare_doubles(op, a.widened(), b),
            (Typed::Double(a), Typed::Int(b)) => compare_doubles(op, a, b.widened()),
            (Typed::Double(a), Typed::Double(b)) => compare_doubles(op, a, b),
            (Typed::Text(Text::Const(a)), Typed::Text(Text::Const(b))) => {
                Bool::Const(op.holds(a.cmp(&b)))
            }
            (Typed::Text(a), Typed::Text(b)) => Bool::Texts(op, Box::new((a, b))),
            (Typed::Bool(a), Typed::Bool(b)) if op.is_equality() => compare_bools(op, a, b),
            (a, b) => return self.mismatch(part, sign, (left, &a), (right, &b)),
        }))
    }

    fn calculate(
        &mut self,
        part: &Parsed,
        (op, sign): (Arithmetic, &str),
        left: &Parsed,
        right: &Parsed,
    ) -> Option<Typed> {
        let (a, b) = (self.check(left), self.check(right));
        match (a?, b?) {
            (Typed::Int(Int::Const(a)), Typed::Int(Int::Const(b))) => match op.ints(a, b) {
                Ok(value) => Some(Typed::Int(Int::Const(value))),
                Err(error) => self.refuse(part, format!("this cannot be calculated: {error}")),
            },
            (Typed::Int(a), Typed::Int(b)) => {
                Some(Typed::Int(Int::Calculated(op, Box::new((a, b)))))
            }
            (Typed::Double(a), Typed::Double(b)) if op != Arithmetic::Remainder => {
                Some(Typed::Double(match (a, b) {
                    (Double::Const(a), Double::Const(b)) => Double::Const(op.doubles(a, b)),
                    sides => Double::Calculated(op, Box::new(sides)),
                }))
            }
            (Typed::Text(a), Typed::Text(b)) if op == Arithmetic::Add => {
                Some(Typed::Text(match (a, b) {
                    (Text::Const(a), Text::Const(b)) => Text::Const(format!("{a}{b}").into()),
                    sides => Text::Joined(Box::new(sides)),
                }))
            }
            (a, b) => self.mismatch(part, sign, (left, &a), (right, &b)),
        }
    }

    fn bool(&mut self, part: &Parsed) -> Option<Bool> {
        match self.check(part)? {
            Typed::Bool(node) => Some(node),
            other => {
                let (quoted, is) = (self.source.quote(part), other.described());
                self.refuse(part, format!("{quoted} is {is}, a bool is needed here"))
            }
        }
    }

    fn mismatch<T>(
        &mut self,
        part: &Parsed,
        sign: &str,
        (left_part, left): (&Parsed, &Typed),
        (right_part, right): (&Parsed, &Typed),
    ) -> Option<T> {
        let (a, b) = (left.described(), right.described());
        let (left_quote, right_quote) =
            (self.source.quote(left_part), self.source.quote(right_part));
        let said = format!("`{sign}` does not take these: {left_quote} is {a}, {right_quote} {b}");
        let is_number = |typed: &Typed| matches!(typed, Typed::Int(_) | Typed::Double(_));
        match (left, right) {
            (Typed::Texts(_), Typed::Texts(_)) => {
                self.refuse_with(part, said, "`in` and `size` work on lists")
            }
            (Typed::Text(_), Typed::Text(_)) if sign == "in" => {
                self.refuse_with(part, said, "text.contains(\"part\") looks in a string")
            }
            _ if a != b && is_number(left) && is_number(right) => {
                self.refuse_with(part, said, "convert one of them with double(…) or int(…)")
            }
            _ => self.refuse(part, said),
        }
    }
}

/// `test ? then : otherwise` of two of one type; else what cannot be chosen.
fn choice(test: Bool, then: Typed, otherwise: Typed) -> Result<Typed, &'static str> {
    fn boxed<N>(test: Bool, then: N, otherwise: N) -> Box<If<N>> {
        Box::new(If { test, then, otherwise })
    }
    Ok(match (then, otherwise) {
        (Typed::Bool(a), Typed::Bool(b)) => Typed::Bool(Bool::If(boxed(test, a, b))),
        (Typed::Int(a), Typed::Int(b)) => Typed::Int(Int::If(boxed(test, a, b))),
        (Typed::Double(a), Typed::Double(b)) => Typed::Double(Double::If(boxed(test, a, b))),
        (Typed::Text(a), Typed::Text(b)) => Typed::Text(Text::If(boxed(test, a, b))),
        (other, _) => return Err(other.described()),
    })
}

/// The operands of `a && b && c`, which the parser makes a balanced tree.
fn flatten<'p>(part: &'p Parsed, name: &str, operands: &mut Vec<&'p Parsed>) {
    match &part.expr {
        Expr::Call(call) if call.func_name == name => {
            call.args.iter().for_each(|inner| flatten(inner, name, operands));
        }
        _ => operands.push(part),
    }
}

fn comparison(name: &str) -> Option<(Compare, &'static str)> {
    Some(match name {
        operators::EQUALS => (Compare::Equal, "=="),
        operators::NOT_EQUALS => (Compare::NotEqual, "!="),
        operators::LESS => (Compare::Less, "<"),
        operators::LESS_EQUALS => (Compare::LessOrEqual, "<="),
        operators::GREATER => (Compare::Greater, ">"),
        operators::GREATER_EQUALS => (Compare::GreaterOrEqual, ">="),
        _ => return None,
    })
}

fn arithmetic(name: &str) -> Option<(Arithmetic, &'static str)> {
    Some(match name {
        operators::ADD => (Arithmetic::Add, "+"),
        operators::SUBSTRACT => (Arithmetic::Subtract, "-"),
        operators::MULTIPLY => (Arithmetic::Multiply, "*"),
        operators::DIVIDE => (Arithmetic::Divide, "/"),
        operators::MODULO => (Arithmetic::Remainder, "%"),
        _ => return None,
    })
}

fn compare_ints(op: Compare, left: Int, right: Int) -> Bool {
    match (left, right) {
        (Int::Const(a), Int::Const(b)) => Bool::Const(op.holds(a.cmp(&b))),
        (Int::Prompt, Int::Const(limit)) if !op.is_equality() => compare_prompt(op, limit),
        (Int::Const(limit), Int::Prompt) if !op.is_equality() => {
            compare_prompt(op.flipped(), limit)
        }
        sides => Bool::Ints(op, Box::new(sides)),
    }
}

/// `tokens.prompt <op> limit` as "more than so many", which is known before all are counted. More
/// than a negative number there always are.
fn compare_prompt(op: Compare, limit: i64) -> Bool {
    let is_at_least = matches!(op, Compare::GreaterOrEqual | Compare::Less);
    let limit = if is_at_least { limit.saturating_sub(1) } else { limit };
    let exceeds = u64::try_from(limit).map_or(Bool::Const(true), Bool::PromptExceeds);
    match (op, exceeds) {
        (Compare::Greater | Compare::GreaterOrEqual, exceeds) => exceeds,
        (_, Bool::Const(always)) => Bool::Const(!always),
        (_, exceeds) => Bool::Not(Box::new(exceeds)),
    }
}

fn compare_doubles(op: Compare, left: Double, right: Double) -> Bool {
    if let (Double::Const(a), Double::Const(b)) = (&left, &right)
        && let Ok(value) = op.doubles(*a, *b)
    {
        return Bool::Const(value);
    }
    Bool::Doubles(op, Box::new((left, right)))
}

fn compare_bools(op: Compare, left: Bool, right: Bool) -> Bool {
    match (left, right) {
        (Bool::Const(a), Bool::Const(b)) => Bool::Const(op.holds(a.cmp(&b))),
        sides => Bool::Bools(op, Box::new(sides)),
    }
}

impl Int {
    pub(super) fn widened(self) -> Double {
        match self {
            Self::Const(value) => Double::Const(op::widened(value)),
            node => Double::OfInt(Box::new(node)),
        }
    }
}

impl Typed {
    fn uint_as_int(self) -> Self {
        if let Self::Uint(value) = self { Self::Int(Int::Const(value)) } else { self }
    }
}
