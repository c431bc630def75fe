// The values that a template computes with: those of Python that templates need.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace restkv::jinja {

class Value;

/// What a name or member that does not exist gives. It prints as nothing and is false; using it otherwise is an error.
struct Undefined {
  std::string name;
};
struct None {};
struct List {
  std::vector<Value> items;
  bool tuple = false;
};
/// Pairs in order of insertion. Dictionaries in templates are small, so that look-up is linear.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  const Value* find(const Value& key) const;
  void set(Value key, Value value);
};
/// namespace(): the only value that a template can change.
struct Namespace {
  Dict members;
};
/// The variable `loop` of a for-loop.
struct Loop {
  std::shared_ptr<const List> items;
  int64_t index = 0;  ///< from 0
  std::shared_ptr<Value> last_changed;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};
struct Function {
  std::string name;
  std::function<Value(const Arguments&)> call;
};

/// Copies are cheap: everything large is shared and immutable (but for Namespace).
class Value {
 public:
  using Variant = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
                               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                               std::shared_ptr<Loop>, std::shared_ptr<const Function>>;

  Value() = default;
  Value(None value) : data_(value) {}
  Value(Undefined value) : data_(std::move(value)) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::string value) : data_(std::make_shared<const std::string>(std::move(value))) {}
  Value(std::string_view value) : Value(std::string(value)) {}
  Value(const char* value) : Value(std::string(value)) {}
  Value(List value) : data_(std::make_shared<const List>(std::move(value))) {}
  Value(std::vector<Value> items) : Value(List{std::move(items)}) {}
  Value(Dict value) : data_(std::make_shared<const Dict>(std::move(value))) {}
  Value(std::shared_ptr<const List> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<Namespace> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<Loop> value) : data_(std::move(value)) {}
  Value(Function value) : data_(std::make_shared<const Function>(std::move(value))) {}

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  /// Integer, float or bool, as in Python.
  bool is_number() const { return is_bool() || is_integer() || is_float(); }
  bool is_string() const { return holds<const std::string>(); }
  bool is_list() const { return holds<const List>(); }
  bool is_dict() const { return holds<const Dict>(); }

  const std::string& string() const { return *get<const std::string>(); }
  const List& list() const { return *get<const List>(); }
  const Dict& dict() const { return *get<const Dict>(); }
  std::shared_ptr<const List> shared_list() const { return get<const List>(); }
  /// Null when it is not one.
  Namespace* name_space() const { return pointer<Namespace>(); }
  Loop* loop() const { return pointer<Loop>(); }
  std::shared_ptr<Loop> shared_loop() const { return get<Loop>(); }
  const Function* function() const { return pointer<const Function>(); }
  const Undefined& undefined() const { return std::get<Undefined>(data_); }

  /// Of an integer or bool. Throws TemplateError "WHAT must be an integer".
  int64_t integer(const std::string& what) const;
  double number() const;  ///< of a number
  const std::string& string(const std::string& what) const;

  bool truth() const;
  /// What {{ value }} prints.
  std::string print() const;
  /// Python's repr().
  std::string repr() const;
  /// The kind, for messages.
  const char* kind() const;

  bool operator==(const Value& other) const;
  /// Throws TemplateError when the two cannot be ordered.
  bool operator<(const Value& other) const;

 private:
  template <class T>
  bool holds() const {
    return std::holds_alternative<std::shared_ptr<T>>(data_);
  }
  template <class T>
  const std::shared_ptr<T>& get() const {
    return std::get<std::shared_ptr<T>>(data_);
  }
  template <class T>
  T* pointer() const {
    const auto* held = std::get_if<std::shared_ptr<T>>(&data_);
    return held ? held->get() : nullptr;
  }

  Variant data_;
};

/// Elements to go over. It keeps them alive, so that a range-for may go over iterate(...) itself.
struct Items {
  std::shared_ptr<const List> list;
  auto begin() const { return list->items.begin(); }
  auto end() const { return list->items.end(); }
};

/// The elements that a for-loop or a filter goes over: items, keys, characters; nothing for an undefined value.
/// Throws TemplateError for other kinds.
Items iterate(const Value& value);

/// len(). Throws TemplateError for values without one.
int64_t length(const Value& value);

/// `needle in hay`.
bool contains(const Value& hay, const Value& needle);

/// hay[key] and hay.name without methods; undefined when there is no such element. Negative indices count from the end.
/// Throws TemplateError for an undefined value.
Value subscript(const Value& hay, const Value& key);

/// hay[begin:end:step]; none leaves a bound open.
Value slice(const Value& hay, const Value& begin, const Value& end, const Value& step);

/// `indent` negative: one line, as json.dumps. Members sorted by name when `sort_keys`.
std::string to_json(const Value& value, int64_t indent, bool sort_keys);

}  // namespace restkv::jinja
