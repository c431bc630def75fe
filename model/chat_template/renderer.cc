#include "model/chat_template/renderer.h"

#include "model/chat_template/builtins.h"
#include "model/chat_template/error.h"

namespace restkv::jinja {

namespace {
constexpr int kMaxMacroDepth = 50;  // macros may call themselves; bounds the stack
}

Value Scope::get(const std::string& name) const {
  for (const Scope* scope = this; scope; scope = scope->parent_) {
    const auto entry = scope->variables_.find(name);
    if (entry != scope->variables_.end()) return entry->second;
  }
  return Undefined{name};
}

void Renderer::render(const Body& body, std::string& out) {
  try {
    run(body, root_, out);
  } catch (TemplateError& error) {
    if (error.line == 0) error.line = line_;
    throw;
  }
}

Renderer::Flow Renderer::run(const Body& body, Scope& scope, std::string& out) {
  for (const Statement& statement : body) {
    line_ = statement.line;
    Flow flow = Flow::kOn;
    switch (statement.kind) {
      case StatementKind::kText: out += statement.text; break;
      case StatementKind::kOutput: out += evaluate(*statement.value, scope).print(); break;
      case StatementKind::kIf: flow = run_if(statement, scope, out); break;
      case StatementKind::kFor: flow = run_for(statement, scope, out); break;
      case StatementKind::kSet: assign(statement.targets, evaluate(*statement.value, scope), scope); break;
      case StatementKind::kSetBlock: {
        Scope inner(&scope);
        std::string text;
        run(statement.branches[0].body, inner, text);
        assign(statement.targets, Value(std::move(text)), scope);
        break;
      }
      case StatementKind::kMacro: define_macro(statement, scope); break;
      case StatementKind::kGroup: {
        Scope inner(&scope);
        flow = run(statement.branches[0].body, inner, out);
        break;
      }
      case StatementKind::kBreak: return Flow::kBreak;
      case StatementKind::kContinue: return Flow::kContinue;
    }
    if (flow != Flow::kOn) return flow;
    if (out.size() > kMaxText) fail("the text is longer than {} bytes", kMaxText);
  }
  return Flow::kOn;
}

Renderer::Flow Renderer::run_if(const Statement& statement, Scope& scope, std::string& out) {
  for (const Branch& branch : statement.branches)
    if (!branch.condition || evaluate(*branch.condition, scope).truth()) return run(branch.body, scope, out);
  return Flow::kOn;
}

Renderer::Flow Renderer::run_for(const Statement& statement, Scope& scope, std::string& out) {
  std::shared_ptr<const List> items = iterate(evaluate(*statement.value, scope)).list;
  if (statement.condition) {
    auto chosen = std::make_shared<List>();
    for (const Value& item : items->items) {
      Scope inner(&scope);
      assign(statement.targets, item, inner);
      if (evaluate(*statement.condition, inner).truth()) chosen->items.push_back(item);
    }
    items = std::move(chosen);
  }
  if (items->items.empty())
    return statement.branches.size() > 1 ? run(statement.branches[1].body, scope, out) : Flow::kOn;
  auto loop = std::make_shared<Loop>();
  loop->items = items;
  for (; loop->index < static_cast<int64_t>(items->items.size()); ++loop->index) {
    Scope inner(&scope);
    inner.set("loop", loop);
    assign(statement.targets, items->items[loop->index], inner);
    if (run(statement.branches[0].body, inner, out) == Flow::kBreak) break;
  }
  return Flow::kOn;
}

void Renderer::assign(const std::vector<Target>& targets, const Value& value, Scope& scope) {
  std::vector<Value> values{value};
  if (targets.size() > 1) {
    values = iterate(value).list->items;
    if (values.size() != targets.size())
      fail("{} values cannot be assigned to {} names", values.size(), targets.size());
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto& [name, member] = targets[i];
    if (member.empty()) {
      scope.set(name, values[i]);
      continue;
    }
    const Value holder = scope.get(name);
    if (!holder.name_space())
      fail("'{}.{}' cannot be set: '{}' is {}, not a namespace", name, member, name, holder.kind());
    holder.name_space()->members.set(member, values[i]);
  }
}

void Renderer::define_macro(const Statement& statement, Scope& scope) {
  scope.set(statement.text, Function{statement.text, [this, &statement](const Arguments& arguments) {
                                       return call_macro(statement, arguments);
                                     }});
}

Value Renderer::call_macro(const Statement& macro, const Arguments& arguments) {
  if (++macro_depth_ > kMaxMacroDepth) fail("the macro '{}' calls itself too deeply", macro.text);
  Scope scope(&root_);
  if (arguments.positional.size() > macro.parameters.size())
    fail("the macro '{}' takes {} arguments, found {}", macro.text, macro.parameters.size(),
         arguments.positional.size());
  for (const auto& [name, value] : arguments.named) {
    bool known = false;
    for (const auto& parameter : macro.parameters) known = known || parameter.first == name;
    if (!known) fail("the macro '{}' has no argument '{}'", macro.text, name);
  }
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& [name, fallback] = macro.parameters[i];
    const Value* given = i < arguments.positional.size() ? &arguments.positional[i] : nullptr;
    for (const auto& [other, value] : arguments.named)
      if (other == name) given = &value;
    scope.set(name, given ? *given : fallback ? evaluate(*fallback, scope) : Value(Undefined{name}));
  }
  std::string out;
  run(macro.branches[0].body, scope, out);
  --macro_depth_;
  return out;
}

Value Renderer::evaluate(const Expression& e, Scope& scope) {
  line_ = e.line;
  const auto operand = [&](size_t i) { return evaluate(*e.operands[i], scope); };
  switch (e.kind) {
    case ExpressionKind::kLiteral: return e.literal;
    case ExpressionKind::kName: return scope.get(e.name);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
    case ExpressionKind::kDict: return evaluate_list(e, scope);
    case ExpressionKind::kMember: return evaluate_member(e, scope);
    case ExpressionKind::kSubscript: {
      const Value base = operand(0);
      const Value key = operand(1);
      if (base.loop() && key.is_string()) return loop_member(base.shared_loop(), key.string());
      return subscript(base, key);
    }
    case ExpressionKind::kSlice: return slice(operand(0), operand(1), operand(2), operand(3));
    case ExpressionKind::kCall: return evaluate_call(e, scope);
    case ExpressionKind::kFilter: {
      const Value input = operand(0);
      return apply_filter(e.name, input, evaluate_arguments(e, scope));
    }
    case ExpressionKind::kTest: {
      const Value input = operand(0);
      return apply_test(e.name, input, evaluate_arguments(e, scope));
    }
    case ExpressionKind::kNot: return !operand(0).truth();
    case ExpressionKind::kNegate: return arithmetic("-", Value(int64_t{0}), operand(0));
    case ExpressionKind::kPlus: return arithmetic("+", Value(int64_t{0}), operand(0));
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr: {
      Value value;
      for (const auto& part : e.operands) {
        value = evaluate(*part, scope);
        if (value.truth() == (e.kind == ExpressionKind::kOr)) break;
      }
      return value;
    }
    case ExpressionKind::kConditional:
      if (operand(1).truth()) return operand(0);
      return e.operands[2] ? operand(2) : Value(Undefined{"the missing else of a conditional"});
    case ExpressionKind::kBinary: return evaluate_binary(e, scope);
    case ExpressionKind::kCompare: return evaluate_compare(e, scope);
  }
  return {};
}

Value Renderer::evaluate_binary(const Expression& e, Scope& scope) {
  Value value = evaluate(*e.operands[0], scope);
  for (size_t i = 0; i < e.names.size(); ++i) {
    const Value right = evaluate(*e.operands[i + 1], scope);
    line_ = e.line;
    value = arithmetic(e.names[i], value, right);
  }
  return value;
}

bool Renderer::evaluate_compare(const Expression& e, Scope& scope) {
  Value left = evaluate(*e.operands[0], scope);
  for (size_t i = 0; i < e.names.size(); ++i) {
    const Value right = evaluate(*e.operands[i + 1], scope);
    const std::string& op = e.names[i];
    bool holds = false;
    if (op == "==" || op == "!=") {
      holds = (left == right) == (op == "==");
    } else if (op == "in" || op == "not in") {
      holds = contains(right, left) == (op == "in");
    } else if (op == "<" || op == ">=") {
      holds = (left < right) == (op == "<");
    } else {
      holds = (right < left) == (op == ">");
    }
    if (!holds) return false;
    left = right;
  }
  return true;
}

Value Renderer::evaluate_list(const Expression& e, Scope& scope) {
  std::vector<Value> values;
  for (const auto& part : e.operands) values.push_back(evaluate(*part, scope));
  if (e.kind != ExpressionKind::kDict) return List{std::move(values), e.kind == ExpressionKind::kTuple};
  Dict dict;
  for (size_t i = 0; i < values.size(); i += 2) dict.set(std::move(values[i]), std::move(values[i + 1]));
  return dict;
}

Value Renderer::evaluate_member(const Expression& e, Scope& scope) {
  const Value base = evaluate(*e.operands[0], scope);
  if (base.loop()) return loop_member(base.shared_loop(), e.name);
  if (has_method(base, e.name)) fail("the method '{}' is supported only where it is called", e.name);
  return subscript(base, Value(e.name));
}

Arguments Renderer::evaluate_arguments(const Expression& e, Scope& scope) {
  Arguments arguments;
  for (size_t i = 1; i < e.operands.size(); ++i) arguments.positional.push_back(evaluate(*e.operands[i], scope));
  for (const auto& [name, value] : e.named) arguments.named.emplace_back(name, evaluate(*value, scope));
  line_ = e.line;
  return arguments;
}

Value Renderer::evaluate_call(const Expression& e, Scope& scope) {
  const Expression& callee = *e.operands[0];
  Value function;
  if (callee.kind == ExpressionKind::kMember) {
    const Value base = evaluate(*callee.operands[0], scope);
    if (has_method(base, callee.name)) return call_method(base, callee.name, evaluate_arguments(e, scope));
    function = base.loop() ? loop_member(base.shared_loop(), callee.name) : subscript(base, Value(callee.name));
    if (function.is_undefined()) fail("{} has no method '{}' that is supported", base.kind(), callee.name);
  } else {
    function = evaluate(callee, scope);
    if (function.is_undefined()) fail("the function '{}' is not defined", function.undefined().name);
  }
  if (!function.function()) fail("{} cannot be called", function.kind());
  return function.function()->call(evaluate_arguments(e, scope));
}

}  // namespace restkv::jinja
