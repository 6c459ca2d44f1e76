// cross_entropy of logits x[n][c] (rows x classes, classes contiguous), with class weights w (1 if
// there are none), label smoothing e and C classes:
//   p[n][c] = exp(x[n][c] - max[n] - log_sum[n]), log_sum[n] = log(sum_c exp(x[n][c] - max[n]))
//   q[n][c] = w[c] * ((1 - e) * t[n][c] + e / C), t the target's probabilities (1 at a class index)
//   row[n] = -sum_c q[n][c] * log p[n][c]; 0 where a class index is ignore_index
//   loss = row, sum_n row[n], or sum_n row[n] / divisor
//   divisor = sum of w[target[n]] over the rows not ignored; rows where targets are probabilities
// Backward, with s[n] = grad[n], grad or grad / divisor:
//   grad_x[n][c] = s[n] * (p[n][c] * sum_k q[n][k] - q[n][c])
//   grad_target[n][c] = -s[n] * (1 - e) * w[c] * log p[n][c]
// max and log_sum are kept apart: their sum would round away what tells large logits apart.
#pragma once

#include <cstdint>

#include "common/capability.h"
#include "common/dtypes.h"
#include "common/reduction.h"

namespace fastmodel {

struct CrossEntropyProblem {
  const void* x;             // (rows, classes)
  const int64_t* index;      // (rows) class indices, or null
  const void* probability;   // (rows, classes), or null; dtype of x
  const void* class_weight;  // (classes), or null; dtype of x
  int64_t rows, classes, ignore_index;
  Reduction reduction;
  double label_smoothing;
  DType dtype;
  int threads;
};

struct CrossEntropyForward {
  CrossEntropyProblem problem;
  void* loss;             // (rows) for kNone, else one element; null if not wanted
  float* row_loss;        // (rows), whatever the reduction; null if not wanted
  float* stats;           // (2 * rows + 1): max, log_sum, divisor; null if not wanted
  void* grad_x;           // as x: grad_x for grad = 1, not for kNone; null if not wanted
  int64_t* row_at_fault;  // set to the first row whose class index is out of range, else to -1
};

struct CrossEntropyBackward {
  CrossEntropyProblem problem;
  const void* grad;        // (rows) for kNone, else one element
  const float* stats;      // as forward left it
  void* grad_x;            // as x, or null if not wanted
  void* grad_probability;  // as probability, or null if not wanted
  int64_t* row_at_fault;
};

// Where row_at_fault is set, nothing else is written.
FASTMODEL_CPU_KERNEL(cross_entropy_forward_cpu, CrossEntropyForward)
FASTMODEL_CPU_KERNEL(cross_entropy_backward_cpu, CrossEntropyBackward)

}  // namespace fastmodel
