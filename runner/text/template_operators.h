#pragma once

#include "text/template_functions.h"
#include "text/template_value.h"

// Python's operators. All throw Error for values that they do not go with, and for integers beyond 64 bits.
namespace runner::templates {

Value negative(const Value& value);
Value added(Work& work, const Value& a, const Value& b);  // numbers, texts, lists
Value subtracted(const Value& a, const Value& b);
Value multiplied(Work& work, const Value& a, const Value& b);  // numbers; a text or a list by a number
Value divided(const Value& a, const Value& b);
Value floor_divided(const Value& a, const Value& b);
Value modulo(const Value& a, const Value& b);
Value raised(const Value& a, const Value& b);

// Python's comparisons, `in` among them.
bool compared(Work& work, const Value& left, Comparison how, const Value& right);

// {values[0]: values[1], ...}: of a key that is there twice the last value counts.
Value mapping(Work& work, const std::vector<Value>& values);

// value[begin:end:step], each none or an integer.
Value sliced(Work& work, const Value& value, const Value& begin, const Value& end, const Value& step);

// range(a), range(a, b) and range(a, b, step) as a list.
Value numbers(Work& work, const Value& a, const Value& b, const Value& step);

}  // namespace runner::templates
