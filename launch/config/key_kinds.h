// Makers of KeySpec rows, one per kind of value. `field` gives the member of a RunConfig, const or not.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/key_table.h"

namespace restkv {

template <class Field>
KeySpec make_key(std::string name, std::string type, std::string unit, Affects affects, std::string doc, Field field) {
  KeySpec key{std::move(name), std::move(type), std::move(unit), affects, std::move(doc), false, {}, {}};
  key.get = [field](const RunConfig& c) { return nlohmann::json(field(c)).dump(); };
  return key;
}

template <class Field>
KeySpec integer_key(std::string name, std::string unit, Affects affects, std::string doc, int64_t low, int64_t high,
                    Field field) {
  KeySpec key = make_key(std::move(name), "integer", std::move(unit), affects, std::move(doc), field);
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_integer(v, low, high); };
  return key;
}

template <class Field>
KeySpec unsigned_key(std::string name, Affects affects, std::string doc, Field field) {
  KeySpec key = make_key(std::move(name), "integer", "", affects, std::move(doc), field);
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_unsigned(v); };
  return key;
}

template <class Field>
KeySpec real_key(std::string name, std::string unit, Affects affects, std::string doc, double low, double high,
                 Field field) {
  KeySpec key = make_key(std::move(name), "number", std::move(unit), affects, std::move(doc), field);
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_real(v, low, high); };
  return key;
}

template <class Field>
KeySpec bool_key(std::string name, Affects affects, std::string doc, Field field) {
  KeySpec key = make_key(std::move(name), "true or false", "", affects, std::move(doc), field);
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_bool(v); };
  return key;
}

template <class Field>
KeySpec text_key(std::string name, Affects affects, std::string doc, Field field) {
  KeySpec key = make_key(std::move(name), "text", "", affects, std::move(doc), field);
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_text(v); };
  key.literal = true;
  return key;
}

template <class Field>
KeySpec texts_key(std::string name, Affects affects, std::string doc, Field field) {
  KeySpec key = make_key(std::move(name), "text or list of texts", "", affects, std::move(doc), field);
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_texts(v); };
  return key;
}

template <class Field>
KeySpec integers_key(std::string name, std::string unit, Affects affects, std::string doc, int64_t low, int64_t high,
                     Field field) {
  KeySpec key =
      make_key(std::move(name), "integer or list of integers", std::move(unit), affects, std::move(doc), field);
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_integers(v, low, high); };
  return key;
}

/// An enum whose values are 0, 1, ... in the order of `names`.
template <class Field>
KeySpec choice_key(std::string name, Affects affects, std::string doc, const std::vector<std::string>& names,
                   Field field) {
  std::string list;
  std::string plain;
  for (const std::string& n : names) {
    list += fmt::format("{}`{}`", list.empty() ? "" : ", ", n);
    plain += fmt::format("{}{}", plain.empty() ? "" : ", ", n);
  }
  KeySpec key{std::move(name), "one of " + list, "", affects, std::move(doc), true, {}, {}};
  key.get = [=](const RunConfig& c) { return nlohmann::json(names.at(static_cast<size_t>(field(c)))).dump(); };
  key.set = [=](RunConfig& c, const Value& v) {
    for (size_t i = 0; v.kind == Value::Kind::scalar && i < names.size(); ++i)
      if (v.text == names[i]) {
        field(c) = static_cast<std::remove_reference_t<decltype(field(c))>>(i);
        return;
      }
    fail_value(v, "one of " + plain);
  };
  return key;
}

/// The integer, or the share as a number below or equal to 1.
inline nlohmann::json to_json(const Budget& b) {
  return b.fraction > 0 ? nlohmann::json(b.fraction) : nlohmann::json(b.tokens);
}

template <class Field>
KeySpec budgets_key(std::string name, std::string unit, Affects affects, std::string doc, Field field) {
  KeySpec key{std::move(name), "budget or list of budgets", std::move(unit), affects, std::move(doc), false, {}, {}};
  key.get = [=](const RunConfig& c) {
    nlohmann::json list = nlohmann::json::array();
    for (const Budget& b : field(c)) list.push_back(to_json(b));
    return list.dump();
  };
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_budgets(v); };
  return key;
}

/// A count of tokens or a share of the prompt.
template <class Field>
KeySpec budget_key(std::string name, std::string unit, std::string doc, Field field) {
  KeySpec key{std::move(name),
              "integer, number or percentage",
              std::move(unit),
              Affects::results,
              std::move(doc),
              true,
              {},
              {}};
  key.get = [=](const RunConfig& c) { return to_json(field(c)).dump(); };
  key.set = [=](RunConfig& c, const Value& v) { field(c) = read_budget(v); };
  return key;
}

}  // namespace restkv
