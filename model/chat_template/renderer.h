// Runs a syntax tree.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "model/chat_template/ast.h"

namespace restkv::jinja {

/// The variables of the template, of one turn of a loop, or of a macro call.
class Scope {
 public:
  explicit Scope(const Scope* parent) : parent_(parent) {}
  void set(const std::string& name, Value value) { variables_[name] = std::move(value); }
  /// Undefined when neither this scope nor one around it has the variable.
  Value get(const std::string& name) const;

 private:
  const Scope* parent_;
  std::unordered_map<std::string, Value> variables_;
};

class Renderer {
 public:
  Renderer() : root_(nullptr) {}
  void set(const std::string& name, Value value) { root_.set(name, std::move(value)); }

  /// Appends what the template prints to `out`. Throws TemplateError, with the line. The body must outlive this.
  void render(const Body& body, std::string& out);

 private:
  enum class Flow { kOn, kBreak, kContinue };

  Flow run(const Body& body, Scope& scope, std::string& out);
  Flow run_if(const Statement& statement, Scope& scope, std::string& out);
  Flow run_for(const Statement& statement, Scope& scope, std::string& out);
  void assign(const std::vector<Target>& targets, const Value& value, Scope& scope);
  void define_macro(const Statement& statement, Scope& scope);
  Value call_macro(const Statement& macro, const Arguments& arguments);

  Value evaluate(const Expression& expression, Scope& scope);
  Value evaluate_binary(const Expression& expression, Scope& scope);
  bool evaluate_compare(const Expression& expression, Scope& scope);
  Value evaluate_member(const Expression& expression, Scope& scope);
  Value evaluate_call(const Expression& expression, Scope& scope);
  Value evaluate_list(const Expression& expression, Scope& scope);
  Arguments evaluate_arguments(const Expression& expression, Scope& scope);

  Scope root_;
  int line_ = 0;  // where it is now, for messages
  int macro_depth_ = 0;
};

}  // namespace restkv::jinja
