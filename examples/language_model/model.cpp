// SPDX-License-Identifier: MIT
//
// The model of the program, compiled once.

#include "model_implementation.hpp"

template class language_model::Model<float>;
