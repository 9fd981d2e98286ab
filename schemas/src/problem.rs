//! Problems: multiple-choice questions, with a picture if there is one.

use crate::column::table;

table! {
    /// One multiple-choice problem.
    Problem, "problems", by_round false {
        problem_id: String, "Identifier, unique in the dataset.";
        split: String, "Split that the problem belongs to.", one_of ["train", "val", "test"];
        question: String, "The question.";
        choices: Vec<String>, "The options in their order; option 0 is shown as (A).";
        answer_index: Option<u8>, "Index of the correct option; null if the publisher hides it.";
        hint: String, "Text context of the question; empty if there is none.";
        caption: String, "Automatic caption of the picture; empty if there is none.";
        lecture: String, "Background knowledge given by the publisher; may be empty.";
        solution: String, "Gold rationale; empty if the publisher gives none.";
        image: Option<String>, "Path of the picture, relative to the dataset folder; null if there is none.";
        subject: Option<String>, "Subject, for instance natural science.";
        topic: Option<String>, "Topic within the subject.";
        category: Option<String>, "Category within the topic.";
        skill: Option<String>, "Skill that the problem exercises.";
        grade: Option<String>, "School grade, grade1 to grade12.";
        source: String, "Collection that the problem comes from.";
    }
}
