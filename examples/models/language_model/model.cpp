// SPDX-License-Identifier: MIT

#include "model_implementation.hpp"

template class language_model::Model<float>;
