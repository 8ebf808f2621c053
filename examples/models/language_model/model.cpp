// SPDX-License-Identifier: MIT

#include "model.hpp"

template class language_model::Model<float>;
