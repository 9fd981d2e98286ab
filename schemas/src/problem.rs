//! Problems: multiple-choice questions, with a picture where there is one.

use crate::column::table;

table! {
    /// One multiple-choice problem.
    Problem, "problems", by_round false {
        problem_id: String, "Identifier, unique in the dataset.";
        split: String, "Split that the problem belongs to.", one_of ["train", "val", "test"];
        question: String, "The question.";
        choices: Vec<String>, "The options in their order; option 0 is shown as (A).";
        answer_index: Option<u8>, "Index of the right option; null where the publisher hides it.";
        hint: String, "Text context of the question; empty where there is none.";
        caption: String, "Machine-made caption of the picture; empty where there is none.";
        lecture: String, "Background knowledge that the publisher gives; may be empty.";
        solution: String, "Gold rationale; empty where the publisher gives none.";
        image: Option<String>, "Path of the picture, relative to the dataset folder; null where there is none.";
        subject: Option<String>, "Subject, for instance natural science.";
        topic: Option<String>, "Topic within the subject.";
        category: Option<String>, "Category within the topic.";
        skill: Option<String>, "Skill that the problem exercises.";
        grade: Option<String>, "School grade, grade1 to grade12.";
        source: String, "Collection that the problem comes from.";
    }
}
