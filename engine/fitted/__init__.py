"""What was fitted for a network, as it is kept and as it is applied: the count SVM, and the signature dictionary."""
