//! The student's input and output: prompts, tokens, sentences, pictures, and batches of them.

pub mod batch;
pub mod corpus;
pub mod option_order;
pub mod prompt;
pub mod sentences;
pub mod tokenizer;
pub mod vision;
