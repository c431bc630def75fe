// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/chat_template/value.h"

namespace restkv::jinja {

enum class ExpressionKind : uint8_t {
  kLiteral,    ///< literal
  kName,       ///< name
  kList,       ///< operands
  kTuple,      ///< operands
  kDict,       ///< operands: key, value, key, value, ...
  kMember,     ///< operands[0].name
  kSubscript,  ///< operands[0][operands[1]]
  kSlice,      ///< operands[0][operands[1]:operands[2]:operands[3]]
  kCall,       ///< operands[0](operands[1..], named)
  kFilter,     ///< operands[0] | name(operands[1..], named)
  kTest,       ///< operands[0] is name(operands[1..])
  kNot,
  kNegate,
  kPlus,
  kAnd,
  kOr,
  kConditional,  ///< operands[0] if operands[1] else operands[2] (may be absent)
  kBinary,       ///< operands[0] name operands[1]; name is the operator
  kCompare,      ///< operands[0] names[0] operands[1] names[1] operands[2] ...
};

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  ExpressionKind kind = ExpressionKind::kLiteral;
  int line = 0;
  std::string name;
  std::vector<std::string> names;
  Value literal;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

enum class StatementKind : uint8_t {
  kText,      ///< text
  kOutput,    ///< {{ value }}
  kIf,        ///< branches; the condition of `else` is absent
  kFor,       ///< for targets in value [if condition]: branches[0].body, or otherwise branches[1].body when empty
  kSet,       ///< set targets = value
  kSetBlock,  ///< set targets[0] to what branches[0].body prints
  kMacro,     ///< text is the name; parameters; branches[0].body
  kGroup,     ///< branches[0].body, printed as it is (generation)
  kBreak,
  kContinue,
};

struct Statement;
using Body = std::vector<Statement>;

struct Branch {
  ExpressionPtr condition;
  Body body;
};

/// What `set` and `for` assign to: a variable, or a member of a namespace.
struct Target {
  std::string name;
  std::string member;  ///< empty for a variable
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 0;
  std::string text;
  ExpressionPtr value;
  ExpressionPtr condition;
  std::vector<Target> targets;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  ///< with their defaults, which may be absent
  std::vector<Branch> branches;
};

}  // namespace restkv::jinja
