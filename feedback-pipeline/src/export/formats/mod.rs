//! One file for each export format: the contents of a line, and the files beside the lines.

mod conversation;
mod hub;
mod kto;
mod llamafactory;
mod preference;
mod prm;
mod sft;
mod verl;
mod writer;

pub(super) use hub::write as write_hub;
pub(super) use writer::{Place, Writer};

use super::options::Format;

/// The writer of a format; `None` for the Hub, whose lines are the rows of the tables.
pub(super) fn writer(format: Format) -> Option<Box<dyn Writer>> {
    Some(match format {
        Format::Prm => Box::new(prm::Prm::default()),
        Format::Preference => Box::new(preference::Preference::default()),
        Format::Kto => Box::new(kto::Kto::default()),
        Format::Sft => Box::new(sft::Sft::default()),
        Format::Llamafactory => Box::new(llamafactory::LlamaFactory::default()),
        Format::Verl => Box::new(verl::Verl::default()),
        Format::Hub => return None,
    })
}
