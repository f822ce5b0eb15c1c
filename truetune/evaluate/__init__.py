"""What a model has learned: who answers, in whose words, and how good the answers are."""
