// SPDX-License-Identifier: MIT
//
// The model in double, for gradient checks.

#include "../model.hpp"

template class language_model::Model<double>;
