// SPDX-License-Identifier: MIT

#include "classifier_implementation.hpp"

template class classification::Classifier<float>;
